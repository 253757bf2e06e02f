//! Storage commitment asked of destinations with `commit = true`: whether they will keep what they acknowledged.
//!
//! The answer comes at once, or later on an association that the destination opens to us (`scp::commit`), or never: then it is asked
//! again. Whatever is said is a line in the job's story.

use crate::commitment::{Reference, Request};
use crate::config::Config;
use crate::delivery::{blocking, retry_at};
use crate::dicom::status::Status;
use crate::dicom::uid::Uid;
use crate::job::{JobId, KeptResult};
use crate::net::requests;
use crate::net::scu::Dial;
use crate::net::tls::Tls;
use crate::store::{Pledge, Store};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::time::Duration;

const POLL: Duration = Duration::from_secs(2);
/// A destination that took the question gets at least this long to answer before it is asked again.
const PATIENCE: SignedDuration = SignedDuration::from_mins(30);

/// What is asked about a delivery. The transaction is another one for each delivery.
pub fn request(job: JobId, destination: &str, objects: &[KeptResult], now: Timestamp) -> Request {
    let (job, moment) = (job.to_string(), now.as_nanosecond().to_string());
    let mut parts = vec!["storage commitment", &job, destination, &moment];
    parts.extend(objects.iter().map(|object| object.sop_instance_uid.as_str()));
    Request {
        transaction_uid: Uid::derived(&parts),
        objects: objects
            .iter()
            .map(|object| Reference {
                sop_class_uid: object.sop_class_uid.clone(),
                sop_instance_uid: object.sop_instance_uid.clone(),
            })
            .collect(),
    }
}

/// Asks until `stop` resolves; a question under way is finished first.
pub async fn run(store: Store, config: Arc<Config>, tls: Option<Arc<Tls>>, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    loop {
        match blocking(&store, |store| store.due_pledges(Timestamp::now())).await {
            Ok(due) => {
                for pledge in due {
                    if let Err(error) = ask(&store, &config, tls.as_ref(), pledge).await {
                        tracing::error!(%error, "cannot record an answer about storage commitment");
                    }
                }
            }
            Err(error) => tracing::error!(%error, "cannot read which storage commitments to ask for"),
        }
        tokio::select! {
            () = &mut stop => return,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

async fn ask(store: &Store, config: &Config, tls: Option<&Arc<Tls>>, pledge: Pledge) -> Result<(), String> {
    let now = Timestamp::now();
    let (job, destination) = (pledge.job.0, pledge.destination.clone());
    let Some(route) = config.route(&destination).filter(|route| route.written.commit) else {
        let why = "the configuration no longer asks for it";
        return blocking(store, move |store| store.pledge_unanswered(&pledge, why, None, now)).await;
    };
    let again = retry_at(route, pledge.attempts + 1, now);
    let (why, again) = match requests::ask_commitment(&Dial::to(config, route, tls), &pledge.request).await {
        Ok((Status::SUCCESS, Some(report))) => {
            tracing::info!(
                job,
                destination,
                kept = report.kept.len(),
                "heard of storage commitment"
            );
            return blocking(store, move |store| store.pledge_answered(&report, now).map(drop)).await;
        }
        Ok((Status::SUCCESS, None)) => {
            tracing::info!(job, destination, "asked for storage commitment");
            let later = now.saturating_add(PATIENCE).unwrap_or(now);
            let why =
                "it took the question and has not answered; is it listed as [[peer]], and does it know our address?";
            (why.to_owned(), again.map(|again| again.max(later)))
        }
        Ok((status, _)) => (format!("it answered {status}"), again),
        Err(error) => (error.to_string(), again),
    };
    if again.is_none() {
        tracing::error!(job, destination, why, "no storage commitment");
    }
    blocking(store, move |store| store.pledge_unanswered(&pledge, &why, again, now)).await
}
