//! What we send: kept results to the protocol's destinations, each with its own state and back-off; and, of destinations that say so,
//! the question whether they will keep it ([`pledges`]).

pub mod pledges;

use crate::config::{Config, Route};
use crate::dicom::status::Status;
use crate::job::KeptResult;
use crate::net;
use crate::net::scu::{self, Dial, Outgoing, ScuError};
use crate::net::tls::Tls;
use crate::store::{DueDelivery, Store, StoreError};
use jiff::{SignedDuration, Timestamp};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Longest sleep: `medlsamd jobs retry` runs in another process and can not ring.
const POLL: Duration = Duration::from_secs(2);

/// Sends until `stop` is notified; sends under way are finished first.
pub async fn run(
    store: Store,
    config: Arc<Config>,
    tls: Option<Arc<Tls>>,
    bell: Arc<Notify>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    let mut sends = JoinSet::new();
    // One association per destination at a time: receivers dislike more, and order is kept.
    let busy: Arc<Mutex<HashSet<String>>> = Arc::default();
    loop {
        match blocking(&store, |store| store.due_deliveries(Timestamp::now())).await {
            Ok(due) => {
                for delivery in due {
                    let mut taken = busy.lock().unwrap_or_else(PoisonError::into_inner);
                    if taken.insert(delivery.destination.clone()) {
                        sends.spawn(deliver(
                            store.clone(),
                            config.clone(),
                            tls.clone(),
                            delivery,
                            busy.clone(),
                            bell.clone(),
                        ));
                    }
                }
            }
            Err(error) => tracing::error!(%error, "cannot read what is to be sent"),
        }
        tokio::select! {
            () = &mut stop => break,
            () = bell.notified() => {}
            () = tokio::time::sleep(POLL) => {}
        }
        while sends.try_join_next().is_some() {}
    }
    while sends.join_next().await.is_some() {}
}

async fn deliver(
    store: Store,
    config: Arc<Config>,
    tls: Option<Arc<Tls>>,
    delivery: DueDelivery,
    busy: Arc<Mutex<HashSet<String>>>,
    bell: Arc<Notify>,
) {
    let job = delivery.job;
    let destination = delivery.destination.clone();
    let sent = match config.route(&destination) {
        Some(route) => send(&store, &Dial::to(&config, route, tls.as_ref()), route, &delivery).await,
        None => Err(format!("destination {destination:?} is no longer in the configuration")),
    };
    crate::failpoint::hit("delivery_before_record");
    let now = Timestamp::now();
    let recorded = match sent {
        Ok(objects) => {
            let sent = objects
                .iter()
                .map(|object| object.kind.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            tracing::info!(job = job.0, destination, sent, "delivered");
            let name = destination.clone();
            let commit = config.route(&destination).is_some_and(|route| route.written.commit);
            blocking(&store, move |store| {
                // Before the delivery is settled: a crash in between asks in vain at worst, and never forgets to.
                if commit {
                    store.pledge(job, &name, &pledges::request(job, &name, &objects, now), now)?;
                }
                store.delivery_succeeded(job, &name, &sent, now)
            })
            .await
        }
        Err(error) => {
            let retry_at = config
                .route(&destination)
                .and_then(|route| retry_at(route, delivery.attempts + 1, now));
            tracing::warn!(job = job.0, destination, %error, again = ?retry_at, "not delivered");
            let name = destination.clone();
            blocking(&store, move |store| {
                store.delivery_failed(job, &name, &error, retry_at, now)
            })
            .await
        }
    };
    if let Err(error) = recorded {
        tracing::error!(job = job.0, destination, %error, "cannot record the delivery");
    }
    busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&destination);
    // Another job may wait for this destination.
    bell.notify_one();
}

/// How long a refused SOP class is not offered again where another form will do.
const REFUSED_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);

/// All objects over one association; anything but stored (or there already) is a failure of the whole. Returns what was sent.
async fn send(store: &Store, dial: &Dial, route: &Route, delivery: &DueDelivery) -> Result<Vec<KeptResult>, String> {
    if delivery.items.iter().any(Vec::is_empty) {
        return Err("a result that is to be sent is not among those kept; compute the job again".into());
    }
    let items = worth_offering(store, route, delivery).await?;
    let outgoing = |object: &KeptResult| Outgoing {
        sop_class_uid: object.sop_class_uid.clone(),
        sop_instance_uid: object.sop_instance_uid.clone(),
        transfer_syntax_uid: object.transfer_syntax_uid.clone(),
        path: object.path.clone(),
    };
    let objects: Vec<Vec<Outgoing>> = items.iter().map(|item| item.iter().map(outgoing).collect()).collect();
    let offered: Vec<Vec<&Outgoing>> = objects.iter().map(|item| item.iter().collect()).collect();
    let answers = scu::store_first_taken(dial, &offered)
        .await
        .map_err(|error| error.to_string())?;
    let mut sent = Vec::new();
    let mut trouble = None;
    for (item, answers) in items.iter().zip(&answers) {
        for (object, answer) in item.iter().zip(answers) {
            let problem = match answer {
                Ok(status) if status.is_stored() => None,
                Ok(status) => Some(format!("{} answered {status} to the {}", route.address, object.kind)),
                Err(error) => Some(error.to_string()),
            };
            remember(store, route, object, item.len(), answer).await;
            match problem {
                None => sent.push(object.clone()),
                // What has another form is not lost yet.
                Some(_) if item.last() != Some(object) => {}
                Some(problem) => trouble = trouble.or(Some(problem)),
            }
        }
    }
    match trouble {
        Some(problem) => Err(problem),
        None if sent.len() < items.len() => Err(format!(
            "the association broke after {} of {} objects",
            sent.len(),
            items.len()
        )),
        None => Ok(sent),
    }
}

/// The items without the forms that this destination refused lately, as long as one is left.
async fn worth_offering(store: &Store, route: &Route, delivery: &DueDelivery) -> Result<Vec<Vec<KeptResult>>, String> {
    let mut items = delivery.items.clone();
    if items.iter().all(|item| item.len() < 2) {
        return Ok(items);
    }
    let (name, address) = (route.name.clone(), route.address.to_string());
    let since = Timestamp::now()
        .saturating_sub(REFUSED_FOR)
        .unwrap_or(Timestamp::UNIX_EPOCH);
    let refused = blocking(store, move |store| store.refused_classes(&name, &address, since)).await?;
    for item in &mut items {
        let last = item.last().cloned();
        item.retain(|object| Some(object) == last.as_ref() || !refused.contains(&object.sop_class_uid));
    }
    Ok(items)
}

/// Keeps in mind what a destination said to something that has another form. A network that broke, or a full disk, says nothing.
async fn remember(store: &Store, route: &Route, object: &KeptResult, forms: usize, answer: &Result<Status, ScuError>) {
    let takes = match answer {
        Ok(status) if status.is_passing() => return,
        Ok(status) => status.is_stored(),
        Err(ScuError::NotAccepted { .. }) => false,
        Err(_) => return,
    };
    if forms < 2 {
        return;
    }
    let (name, address, class) = (
        route.name.clone(),
        route.address.to_string(),
        object.sop_class_uid.clone(),
    );
    let now = Timestamp::now();
    let kept = blocking(store, move |store| {
        store.remember_ability(&name, &address, &class, takes, now)
    })
    .await;
    if let Err(error) = kept {
        // The next delivery asks again: nothing is lost but a moment.
        tracing::warn!(destination = route.name, %error, "cannot remember what the destination takes");
    }
}

/// Doubling pause with a cap; `None` once the attempts are used up.
fn retry_at(route: &Route, attempts: u32, now: Timestamp) -> Option<Timestamp> {
    let written = &route.written;
    if attempts >= written.attempts {
        return None;
    }
    let pause_s = (written.retry_s * 2f64.powi(attempts.min(30) as i32 - 1)).min(written.retry_max_s);
    Some(
        now.saturating_add(SignedDuration::from_secs_f64(pause_s))
            .unwrap_or(now),
    )
}

/// The store is synchronous: its calls run where blocking is allowed.
async fn blocking<T: Send + 'static>(
    store: &Store,
    call: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, String> {
    let store = store.clone();
    let called = net::off_thread(move || call(&store)).await?;
    called.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_then_a_person_must_look() {
        let mut written = crate::config::Written::example().destination.remove(0);
        (written.retry_s, written.retry_max_s, written.attempts) = (10.0, 35.0, 5);
        let route = Route {
            name: "PACS".into(),
            address: written.address.parse().unwrap(),
            profile: crate::results::profile::Profile::default(),
            style: String::new(),
            written,
        };
        let now = Timestamp::UNIX_EPOCH;
        let pauses: Vec<_> = (1..=5)
            .map(|n| retry_at(&route, n, now).map(|at| at.as_second()))
            .collect();
        assert_eq!(pauses, [Some(10), Some(20), Some(35), Some(35), None]);
    }
}
