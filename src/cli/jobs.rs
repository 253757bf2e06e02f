//! `medlsamd jobs`: the same rows the daemon works on, read and steered from another process.

use crate::cli::print;
use crate::config::Config;
use crate::exit::Exit;
use crate::job::{Job, JobId, State};
use crate::store::Store;
use crate::table;
use jiff::Timestamp;

#[derive(clap::Subcommand)]
pub enum Command {
    /// The newest jobs
    List {
        /// Only jobs in this state
        #[arg(long)]
        state: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// One job: what came, what was decided and why, what was sent
    Show { id: i64 },
    /// Compute again, or send the kept results again
    Retry { id: i64 },
    /// Give a job up
    Cancel { id: i64 },
    /// Why a series is where it is
    Explain { series_uid: String },
}

pub fn run(config: &Config, command: Command, json: bool) -> Result<(), Exit> {
    let dir = &config.written.storage.dir;
    if !dir.join(crate::store::FILE_NAME).is_file() {
        return Err(Exit::Missing(format!(
            "no database in {}; has the daemon run here?",
            dir.display()
        )));
    }
    let store = Store::open(dir, jiff::tz::TimeZone::system())?;
    let now = Timestamp::now();
    match command {
        Command::List { state, limit } => {
            let state = state
                .map(|text| State::parse(&text).ok_or_else(|| unknown_state(&text)))
                .transpose()?;
            let jobs = store.jobs(state, limit)?;
            let facts: Vec<_> = jobs.iter().map(facts).collect();
            print(json, &facts.into(), || list(&jobs));
        }
        Command::Show { id } => show(&store, JobId(id), json)?,
        Command::Retry { id } => {
            let state = store.retry(JobId(id), now)?;
            print(json, &serde_json::json!({ "job": id, "state": state.as_str() }), || {
                format!("job {id} is {state}\n")
            });
        }
        Command::Cancel { id } => {
            store.cancel(JobId(id), "cancelled from the command line", now)?;
            print(json, &serde_json::json!({ "job": id, "state": "cancelled" }), || {
                format!("job {id} is cancelled\n")
            });
        }
        Command::Explain { series_uid } => {
            let uid = crate::dicom::uid::Uid::parse(&series_uid).map_err(|error| Exit::Usage(error.to_string()))?;
            let jobs = store.jobs_of_series(&uid)?;
            if jobs.is_empty() {
                return Err(Exit::Usage(format!("nothing of series {uid} was ever taken in")));
            }
            jobs.iter().try_for_each(|job| show(&store, job.id, json))?;
        }
    }
    Ok(())
}

fn unknown_state(text: &str) -> Exit {
    let known: Vec<_> = State::ALL.iter().map(|state| state.as_str()).collect();
    Exit::Usage(format!("{text:?} is no state; one of {}", known.join(", ")))
}

fn list(jobs: &[Job]) -> String {
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|job| {
            vec![
                job.id.to_string(),
                job.state.to_string(),
                job.protocol.clone().unwrap_or_default(),
                job.instances.to_string(),
                format!("{:.0}", job.received_at),
                job.summary.structures_found.len().to_string(),
                job.attempts.to_string(),
                job.reason.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table::render(
        &[
            "job", "state", "protocol", "slices", "received", "found", "attempts", "reason",
        ],
        &rows,
    )
}

/// Patient data stays in the database: neither listing nor JSON carries names or ids.
fn facts(job: &Job) -> serde_json::Value {
    serde_json::json!({
        "job": job.id.0,
        "state": job.state.as_str(),
        "study_uid": job.series.study_instance_uid.as_str(),
        "series_uid": job.series.series_instance_uid.as_str(),
        "protocol": job.protocol,
        "revision": job.identity.revision,
        "supersedes": job.supersedes.map(|id| id.0),
        "instances": job.instances,
        "attempts": job.attempts,
        "reason": job.reason,
        "received_at": job.received_at.to_string(),
        "started_at": job.started_at.map(|at| at.to_string()),
        "finished_at": job.finished_at.map(|at| at.to_string()),
        "structures_found": job.summary.structures_found,
        "structures_missing": job.summary.structures_missing,
        "provider": job.summary.provider,
        "models": job.summary.models,
    })
}

fn show(store: &Store, id: JobId, json: bool) -> Result<(), Exit> {
    let job = store.job(id)?;
    let events = store.events(id)?;
    let deliveries = store.deliveries(id)?;
    let results = store.results(id)?;
    let mut value = facts(&job);
    value["events"] = events
        .iter()
        .map(|e| serde_json::json!({ "at": e.at.to_string(), "state": e.state.as_str(), "text": e.text }))
        .collect();
    value["deliveries"] = deliveries
        .iter()
        .map(|d| {
            serde_json::json!({
                "destination": d.destination, "state": d.state.as_str(), "attempts": d.attempts,
                "last_error": d.last_error, "acknowledged_at": d.acknowledged_at.map(|at| at.to_string()),
                "commitment": d.commitment,
            })
        })
        .collect();
    value["results"] = results
        .iter()
        .map(|r| {
            serde_json::json!({
                "kind": r.kind, "sop_instance_uid": r.sop_instance_uid.as_str(), "path": r.path, "sha256": r.sha256,
            })
        })
        .collect();
    print(json, &value, || {
        let mut text = format!(
            "job {} of series {}: {}, revision {}, {} instances\n",
            job.id, job.series.series_instance_uid, job.state, job.identity.revision, job.instances
        );
        for event in &events {
            text.push_str(&format!(
                "  {:.0}  {:<10} {}\n",
                event.at,
                event.state.as_str(),
                event.text
            ));
        }
        for (name, reason) in &job.summary.structures_missing {
            text.push_str(&format!("  not found: {name}: {reason}\n"));
        }
        for result in &results {
            text.push_str(&format!("  {}: {}\n", result.kind, result.path.display()));
        }
        for d in &deliveries {
            let error = d.last_error.as_deref().unwrap_or("");
            let commitment = d
                .commitment
                .as_ref()
                .map(|state| format!(", storage commitment {state}"));
            text.push_str(&format!(
                "  to {}: {} after {} failed sends{} {error}\n",
                d.destination,
                d.state.as_str(),
                d.attempts,
                commitment.unwrap_or_default()
            ));
        }
        text
    });
    Ok(())
}
