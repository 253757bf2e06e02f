//! What we send: kept results to the protocol's destinations, each with its own state and back-off.

use crate::config::{Config, Route};
use crate::net::scu::{self, Dial, Outgoing};
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
pub async fn run(store: Store, config: Arc<Config>, bell: Arc<Notify>, stop: impl Future<Output = ()>) {
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
    delivery: DueDelivery,
    busy: Arc<Mutex<HashSet<String>>>,
    bell: Arc<Notify>,
) {
    let job = delivery.job;
    let destination = delivery.destination.clone();
    let sent = match config.route(&destination) {
        Some(route) => send(&config, route, &delivery).await,
        None => Err(format!("destination {destination:?} is no longer in the configuration")),
    };
    crate::failpoint::hit("delivery_before_record");
    let now = Timestamp::now();
    let recorded = match sent {
        Ok(()) => {
            tracing::info!(job = job.0, destination, "delivered");
            let name = destination.clone();
            blocking(&store, move |store| store.delivery_succeeded(job, &name, now)).await
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

/// All objects over one association; anything but stored (or there already) is a failure of the whole.
async fn send(config: &Config, route: &Route, delivery: &DueDelivery) -> Result<(), String> {
    let timeout = Duration::from_secs(route.written.timeout_s);
    let dial = Dial {
        calling_ae: config.ae_title.clone(),
        address: route.address.clone(),
        connect_timeout: timeout.min(Duration::from_secs(20)),
        timeout,
    };
    let objects: Vec<Outgoing> = delivery
        .objects
        .iter()
        .map(|object| Outgoing {
            sop_class_uid: object.sop_class_uid.clone(),
            sop_instance_uid: object.sop_instance_uid.clone(),
            transfer_syntax_uid: object.transfer_syntax_uid.clone(),
            path: object.path.clone(),
        })
        .collect();
    let answers = scu::store(&dial, &objects).await.map_err(|error| error.to_string())?;
    if answers.len() < objects.len() && answers.iter().all(Result::is_ok) {
        return Err(format!(
            "the association broke after {} of {} objects",
            answers.len(),
            objects.len()
        ));
    }
    for (object, answer) in delivery.objects.iter().zip(answers) {
        match answer {
            Ok(status) if status.is_stored() => {}
            Ok(status) => return Err(format!("{} answered {status} to the {}", route.address, object.kind)),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
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
    match tokio::task::spawn_blocking(move || call(&store)).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(panic.to_string()),
    }
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
            written,
        };
        let now = Timestamp::UNIX_EPOCH;
        let pauses: Vec<_> = (1..=5)
            .map(|n| retry_at(&route, n, now).map(|at| at.as_second()))
            .collect();
        assert_eq!(pauses, [Some(10), Some(20), Some(35), Some(35), None]);
    }
}
