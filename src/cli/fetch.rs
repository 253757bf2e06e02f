//! `medlsamd fetch`: series from an archive to the running daemon, by accession number or UID.

use crate::config::{Config, Window};
use crate::exit::Exit;
use crate::fetch::{Fetch, Fetched, Outcome, Wish, read_list};
use crate::net::scu::{Dial, ScuError};
use crate::net::tls::Tls;
use crate::store::{FILE_NAME, Store};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Accession numbers, study or series UIDs
    #[arg(value_name = "ACCESSION|UID")]
    wishes: Vec<String>,
    /// A file with one of them a line; # begins a comment
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// The [[destination]] to fetch from [default: fetch.from, or the only one there is]
    #[arg(long, value_name = "DESTINATION")]
    from: Option<String>,
    /// Local time to work in, e.g. 22:00-05:00; outside of it nothing is asked [default: fetch.window]
    #[arg(long, value_name = "HH:MM-HH:MM")]
    window: Option<Window>,
    /// At once, whatever fetch.window says
    #[arg(long, conflicts_with = "window")]
    now: bool,
}

pub fn run(config: &Config, args: &Args, json: bool) -> Result<(), Exit> {
    let wishes = wishes(args)?;
    let fetch = Fetch {
        config,
        dial: dial(config, args.from.as_deref())?,
        store: store(config)?,
        window: match args.now {
            true => None,
            false => args.window.or(config.fetch_window),
        },
    };
    let mut all: Vec<Fetched> = Vec::new();
    let ended = fetch.run(&wishes, |fetched| {
        if !json {
            println!("{}", line(&fetched));
        }
        all.push(fetched);
    });
    if json {
        println!("{:#}", serde_json::json!(all));
    }
    ended.map_err(|error| match error {
        ScuError::File { .. } => Exit::Failed(error.to_string()),
        _ => Exit::Peer(error.to_string()),
    })?;
    let bad = all
        .iter()
        .filter(|f| !matches!(f.outcome, Outcome::Sent | Outcome::AlreadyHere));
    let text = format!("{} of {} did not come", bad.clone().count(), all.len());
    match bad.map(|fetched| fetched.outcome == Outcome::Refused).max() {
        None => Ok(()),
        Some(true) => Err(Exit::Peer(text)),
        Some(false) => Err(Exit::Failed(text)),
    }
}

fn line(fetched: &Fetched) -> String {
    let what = match fetched.outcome {
        Outcome::Sent => format!("{} instances sent", fetched.instances),
        Outcome::AlreadyHere => format!("{} instances are here already", fetched.instances),
        Outcome::NotFound | Outcome::Incomplete | Outcome::Refused => fetched.problem.clone(),
    };
    format!("{} {}: {what}", fetched.wish, fetched.series_uid)
}

fn wishes(args: &Args) -> Result<Vec<Wish>, Exit> {
    let mut wishes: Vec<Wish> = args
        .wishes
        .iter()
        .map(|text| Wish::parse(text).map_err(Exit::Usage))
        .collect::<Result<_, _>>()?;
    if let Some(path) = &args.list {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Exit::Missing(format!("cannot read {}: {error}", path.display())))?;
        let listed = read_list(&text).map_err(|problem| Exit::Usage(format!("{}, {problem}", path.display())))?;
        wishes.extend(listed);
    }
    match wishes.is_empty() {
        true => Err(Exit::Usage(
            "name an accession number or a UID, or give a --list".into(),
        )),
        false => Ok(wishes),
    }
}

fn dial(config: &Config, from: Option<&str>) -> Result<Dial, Exit> {
    let name = from.or(Some(config.written.fetch.from.as_str()).filter(|name| !name.is_empty()));
    let route = match (name, config.routes.as_slice()) {
        (Some(name), _) => config
            .route(name)
            .ok_or_else(|| Exit::Usage(format!("no [[destination]] is called {name:?}")))?,
        (None, [only]) => only,
        (None, _) => return Err(Exit::Usage("say --from, the [[destination]] to fetch from".into())),
    };
    let tls = Tls::of(config).map_err(|error| Exit::Missing(format!("{}: {}", error.file.display(), error.cause)))?;
    Ok(Dial::to(config, route, tls.as_ref()))
}

/// Before the daemon ever ran there is none, and nothing is here.
fn store(config: &Config) -> Result<Option<Store>, Exit> {
    let dir = &config.written.storage.dir;
    match dir.join(FILE_NAME).is_file() {
        true => Ok(Some(Store::open(dir, jiff::tz::TimeZone::system())?)),
        false => Ok(None),
    }
}
