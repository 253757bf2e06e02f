//! Asking others: sending on what somebody asked us for.

use crate::dicom::status::Status;
use crate::net::dimse::Originator;
use crate::net::outgoing::open;
use crate::net::pdu::AbortReason;
use crate::net::scu::{self, Dial, Outgoing, ScuError, transmit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// Sends objects over one association for somebody's C-MOVE, and tells the outcome of each as it comes, in order. Objects after a
/// break are not told of. Stops between two objects once `cancelled`.
///
/// # Errors
/// When the association cannot be opened: nothing was sent then.
pub async fn forward(
    dial: &Dial,
    objects: &[Outgoing],
    originator: &Originator,
    cancelled: Arc<AtomicBool>,
    outcomes: mpsc::Sender<Result<Status, ScuError>>,
) -> Result<(), ScuError> {
    let all: Vec<&Outgoing> = objects.iter().collect();
    let mut association = scu::associate(dial, scu::contexts_for(&all), Vec::new()).await?;
    for (object, message_id) in objects.iter().zip((1..=u16::MAX).cycle()) {
        if cancelled.load(Ordering::Relaxed) {
            break;
        }
        let outcome = match scu::choose(&association, object) {
            None => Err(ScuError::NotAccepted {
                address: dial.address.to_string(),
                sop_class_uid: object.sop_class_uid.to_string(),
            }),
            Some(context) => match open(object, &context.transfer_syntax).await {
                Err(error) => Err(error),
                Ok(data) => {
                    let sent = transmit(&mut association, &context, object, message_id, data, Some(originator)).await;
                    let answered = match sent {
                        Ok(request) => scu::response(&mut association, &request).await.map_err(Into::into),
                        Err(failure) => Err(failure),
                    };
                    match answered {
                        Ok(response) => Ok(response.status),
                        Err(failure) => {
                            // Whoever counts sees from the missing outcomes that it broke here.
                            let _ = outcomes.send(Err(failure.of(dial, object))).await;
                            association.abort(AbortReason::NotSpecified).await;
                            return Ok(());
                        }
                    }
                }
            },
        };
        if outcomes.send(outcome).await.is_err() {
            // The one who asked is gone.
            association.abort(AbortReason::NotSpecified).await;
            return Ok(());
        }
    }
    let _ = association.release().await;
    Ok(())
}
