//! The command line: parse, dispatch, exit code. Commands and codes are the contract that scripts rely on.

mod evaluate;
mod fetch;
mod labels;
mod jobs;
mod models;
mod process;
mod template;

use crate::config::{Config, Problem};
use crate::conformance;
use crate::exit::Exit;
use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the daemon's configuration lies when `--config` does not say.
pub const DEFAULT_CONFIG: &str = "/etc/medlsamd/medlsamd.toml";

/// CT series in over DICOM, organs found and outlined, SEG and RTSTRUCT out.
#[derive(Parser)]
#[command(name = "medlsamd", version, max_term_width = 100)]
struct Line {
    /// Configuration file [default: /etc/medlsamd/medlsamd.toml where it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print facts as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon
    Serve,
    /// Run the pipeline on files, no network: DICOM folder in, SEG, RTSTRUCT and report.json out
    Process(process::Args),
    /// Report every problem of configuration, models, providers and destinations at once
    Check {
        /// Also C-ECHO every destination
        #[arg(long)]
        online: bool,
    },
    /// See and steer jobs
    Jobs {
        #[command(subcommand)]
        command: jobs::Command,
    },
    /// Get series from an archive by C-FIND and C-MOVE, now or in a window
    Fetch(fetch::Args),
    /// Teach structures from contoured cases
    Template {
        #[command(subcommand)]
        command: template::Command,
    },
    /// Measure localisation and outlines against labels or points
    Evaluate(evaluate::Args),
    /// Models: list, verify
    Model {
        #[command(subcommand)]
        command: models::Command,
    },
    /// Print the DICOM Conformance Statement
    Conformance,
    /// Push a real CT through a daemon on loopback and show what comes back
    Demo {
        /// Where the set-up put runtime, weights and sample
        #[arg(long, value_name = "DIR", default_value = ".cache")]
        cache: PathBuf,
        /// Where models and their manifests lie
        #[arg(long, value_name = "DIR", default_value = "models")]
        models: PathBuf,
    },
}

/// Parses the process's arguments and runs the command.
pub fn main() -> ExitCode {
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match run(line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            eprintln!("medlsamd: {exit}");
            ExitCode::from(exit.code())
        }
    }
}

fn run(line: Line) -> Result<(), Exit> {
    let file = line
        .config
        .clone()
        .or_else(|| Some(PathBuf::from(DEFAULT_CONFIG)).filter(|path| path.exists()));
    let file = file.as_deref();
    match line.command {
        Command::Serve => {
            let config = load(file)?;
            start_log(&config.written.log.level, &config.written.log.format);
            crate::daemon::serve(config).map_err(Exit::from)
        }
        Command::Process(args) => {
            start_log("warn", "text");
            process::run(&load_lenient(file)?, &args, line.json)
        }
        Command::Check { online } => crate::check::run(file, online, line.json),
        Command::Jobs { command } => jobs::run(&load(file)?, command, line.json),
        Command::Fetch(args) => {
            start_log("info", "text");
            fetch::run(&load(file)?, &args, line.json)
        }
        Command::Template { command } => {
            start_log("warn", "text");
            template::run(&load_lenient(file)?, command, line.json)
        }
        Command::Evaluate(args) => {
            start_log("warn", "text");
            evaluate::run(&load_lenient(file)?, &args, line.json)
        }
        Command::Model { command } => models::run(&load_lenient(file)?, command, line.json),
        Command::Conformance => {
            print(line.json, &conformance::facts(), conformance::statement);
            Ok(())
        }
        Command::Demo { cache, models } => {
            start_log("warn", "text");
            crate::demo::run(&cache, &models)
        }
    }
}

/// The configuration, or all its problems as one text.
fn load(file: Option<&Path>) -> Result<Config, Exit> {
    Config::load(file).map_err(|problems| Exit::Usage(list(&problems)))
}

/// For commands without network: peers and protocols may be absent.
fn load_lenient(file: Option<&Path>) -> Result<Config, Exit> {
    Config::load_offline(file).map_err(|problems| Exit::Usage(list(&problems)))
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    format!("{} problem(s) in the configuration:{}", problems.len(), lines.concat())
}

fn start_log(level: &str, format: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MEDLSAMD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start (tests) keeps the first.
    let _ = if format == "json" {
        log.json().try_init()
    } else {
        log.try_init()
    };
}

/// Prints facts: as JSON when asked, else as the text given.
fn print(json: bool, value: &serde_json::Value, text: impl FnOnce() -> String) {
    if json {
        println!("{value:#}");
    } else {
        print!("{}", text());
    }
}
