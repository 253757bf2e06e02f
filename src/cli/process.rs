//! `medlsamd process`.

use crate::cli::print;
use crate::config::Config;
use crate::engines;
use crate::exit::Exit;
use crate::process::{self, Order, Processed};
use crate::terminal::Shown;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// DICOM files or folders
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Where the results go; one folder per series when there are several
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only these, comma separated [default: every structure of the template bank]
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    structures: Vec<String>,
    /// Content date and time of the results, for repeatable bytes [default: now]
    #[arg(long, value_name = "YYYYMMDDTHHMMSS")]
    at: Option<jiff::civil::DateTime>,
    /// Also write the inference masks, for graders
    #[arg(long)]
    masks: bool,
}

pub fn run(config: &Config, args: &Args, json: bool) -> Result<(), Exit> {
    let at = args.at.unwrap_or_else(|| jiff::Zoned::now().datetime());
    let order = Order {
        paths: &args.paths,
        out: &args.out,
        structures: &args.structures,
        content_date: at.strftime("%Y%m%d").to_string(),
        content_time: at.strftime("%H%M%S").to_string(),
        dump_masks: args.masks,
    };
    let runtime = engines::runtime(config)?;
    let mut engines = engines::load(config, &runtime)?;
    let shown = Shown::default();
    let processed = process::run(&order, &mut engines, &shown)?;
    shown.finish();

    let mut refused = 0;
    for series in &processed {
        match series {
            Processed::Done { out, report } => {
                let facts = serde_json::json!({ "out": out, "report": report });
                print(json, &facts, || {
                    format!("{}\nresults in {}\n", process::summary(report), out.display())
                });
            }
            Processed::Refused {
                series_instance_uid,
                reason,
            } => {
                refused += 1;
                let facts = serde_json::json!({ "refused": series_instance_uid.as_str(), "reason": reason });
                print(json, &facts, || {
                    format!("series {series_instance_uid} refused: {reason}\n")
                });
            }
        }
    }
    match refused {
        0 => Ok(()),
        n => Err(Exit::Failed(format!("{n} of {} series refused", processed.len()))),
    }
}
