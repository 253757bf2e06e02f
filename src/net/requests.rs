//! Asking others: sending on what somebody asked us for, storage commitment in both directions.

use crate::commitment::{self, PUSH_MODEL, PUSH_MODEL_INSTANCE, REQUEST_COMMITMENT, Report};
use crate::dicom::recode::implicit_vr;
use crate::dicom::scan::Encoding;
use crate::dicom::status::Status;
use crate::dicom::uid::Uid;
use crate::net::association::Association;
use crate::net::dimse::{Command, Operation, Originator, Progress, Request, Response};
use crate::net::negotiation::Context;
use crate::net::outgoing::open;
use crate::net::pdu::{AbortReason, Proposed, Role};
use crate::net::scu::{self, Dial, Outgoing, ScuError, transmit};
use crate::net::transport::Broken;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

const IMPLICIT_VR_LE: &str = "1.2.840.10008.1.2";
const EXPLICIT_VR_LE: &str = "1.2.840.10008.1.2.1";
/// Longest data set of an answer taken.
pub const MAX_ANSWER_BYTES: usize = 8 << 20;

/// One presentation context for a service that is asked with data sets without pixels.
async fn open_for(dial: &Dial, class: &str, roles: Vec<Role>) -> Result<(Association, Context), ScuError> {
    let proposed = [EXPLICIT_VR_LE, IMPLICIT_VR_LE]
        .into_iter()
        .zip([1, 3])
        .map(|(syntax, id)| Proposed {
            id,
            abstract_syntax: class.to_owned(),
            transfer_syntaxes: vec![syntax.to_owned()],
        });
    let association = scu::associate(dial, proposed.collect(), roles).await?;
    let uid = Uid::parse(class).expect("a UID of the standard");
    let context = [EXPLICIT_VR_LE, IMPLICIT_VR_LE]
        .iter()
        .find_map(|syntax| association.context(&uid, syntax).cloned());
    match context {
        Some(context) => Ok((association, context)),
        None => {
            association.abort(AbortReason::NotSpecified).await;
            Err(ScuError::NotAccepted {
                address: dial.address.to_string(),
                sop_class_uid: class.to_owned(),
            })
        }
    }
}

/// A data set in explicit VR as the presentation context wants it.
pub fn encoded(data_set: Vec<u8>, transfer_syntax: &Uid) -> Vec<u8> {
    match Encoding::of(transfer_syntax).explicit_vr {
        true => data_set,
        false => implicit_vr(&data_set).expect("data sets of our own are well formed"),
    }
}

/// Sends a request with its data set and waits for the only response.
async fn ask(
    association: &mut Association,
    context: &Context,
    request: &Request,
    data_set: Vec<u8>,
) -> Result<Response, Broken> {
    let data = encoded(data_set, &context.transfer_syntax);
    association.send_with_data(context.id, &request.encode(), &data).await?;
    scu::response(association, request).await
}

/// Tells a peer what we keep for it (N-EVENT-REPORT), as the provider that calls it back.
pub async fn report_commitment(dial: &Dial, report: &Report) -> Result<Status, ScuError> {
    let roles = vec![Role {
        sop_class_uid: PUSH_MODEL.into(),
        scu: false,
        scp: true,
    }];
    let (mut association, context) = open_for(dial, PUSH_MODEL, roles).await?;
    let answer = ask(&mut association, &context, &event_report(report, 1), report.encode()).await;
    finish(dial, association, answer).await.map(|response| response.status)
}

/// The request that carries a report.
pub fn event_report(report: &Report, message_id: u16) -> Request {
    Request {
        operation: Operation::EventReport {
            sop_instance_uid: PUSH_MODEL_INSTANCE.into(),
            event_type: report.event_type(),
        },
        message_id,
        sop_class_uid: PUSH_MODEL.into(),
        has_data: true,
    }
}

async fn finish<T>(dial: &Dial, association: Association, answer: Result<T, Broken>) -> Result<T, ScuError> {
    match answer {
        Ok(answer) => {
            // Everything is answered: a peer that leaves without the last courtesy takes nothing back.
            let _ = association.release().await;
            Ok(answer)
        }
        Err(broken) => {
            association.abort(AbortReason::NotSpecified).await;
            Err(ScuError::unreachable(dial, broken))
        }
    }
}

/// How long a provider may take to report on the association it was asked on; most call back later instead.
const REPORT_AT_ONCE: Duration = Duration::from_secs(3);

/// Asks for storage commitment (N-ACTION). The report comes on the same association now, or later on one that the peer opens.
pub async fn ask_commitment(dial: &Dial, request: &commitment::Request) -> Result<(Status, Option<Report>), ScuError> {
    let (mut association, context) = open_for(dial, PUSH_MODEL, Vec::new()).await?;
    let action = Request {
        operation: Operation::Action {
            sop_instance_uid: PUSH_MODEL_INSTANCE.into(),
            action_type: REQUEST_COMMITMENT,
        },
        message_id: 1,
        sop_class_uid: PUSH_MODEL.into(),
        has_data: true,
    };
    let answer = async {
        let response = ask(&mut association, &context, &action, request.encode()).await?;
        if response.status != Status::SUCCESS {
            return Ok((response.status, None));
        }
        let report = match timeout(REPORT_AT_ONCE, association.readable()).await {
            Ok(heard) => {
                heard?;
                hear_report(&mut association).await?
            }
            Err(_) => None,
        };
        Ok((response.status, report))
    };
    let answer = answer.await;
    finish(dial, association, answer).await
}

/// A report on the association where it was asked for.
async fn hear_report(association: &mut Association) -> Result<Option<Report>, Broken> {
    let unexpected = |what: &str| Broken::violation(AbortReason::UnexpectedPdu, what);
    let message = association.next_message().await?;
    let message = message.ok_or_else(|| unexpected("A-RELEASE-RQ of a provider"))?;
    let Command::Request(heard) = message.command else {
        return Err(unexpected("an answer to nothing"));
    };
    if !matches!(heard.operation, Operation::EventReport { .. }) || !heard.has_data {
        return Err(unexpected("something other than a report"));
    }
    let data = association.data_set(message.context.id, MAX_ANSWER_BYTES).await?;
    let encoding = Encoding::of(&message.context.transfer_syntax);
    let report = data.ok().and_then(|data| Report::decode(&data, encoding).ok());
    let status = match &report {
        Some(_) => Status::SUCCESS,
        None => Status::INVALID_ARGUMENT,
    };
    let response = heard.answer(status, "");
    association.send(message.context.id, &response.encode(), &[]).await?;
    Ok(report)
}

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

/// Study Root Query/Retrieve, FIND and MOVE.
pub const STUDY_ROOT_FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";
pub const STUDY_ROOT_MOVE: &str = "1.2.840.10008.5.1.4.1.2.2.2";
/// More answers than this are not waited for.
const MAX_ANSWERS: usize = 10_000;

/// What a C-FIND brought.
#[derive(Debug)]
pub struct Found {
    pub status: Status,
    /// Error Comment of the last response.
    pub comment: String,
    /// Identifiers, with how they are encoded.
    pub rows: Vec<(Vec<u8>, Encoding)>,
}

/// What a C-MOVE did.
#[derive(Debug)]
pub struct Moved {
    pub status: Status,
    pub comment: String,
    /// Sub-operations as the last response that had any counted them.
    pub progress: Progress,
}

/// C-FIND in the Study Root model. `identifier` is in Explicit VR Little Endian.
pub async fn find(dial: &Dial, identifier: Vec<u8>) -> Result<Found, ScuError> {
    let (mut association, context) = open_for(dial, STUDY_ROOT_FIND, Vec::new()).await?;
    let request = request_for(Operation::Find, STUDY_ROOT_FIND);
    let encoding = Encoding::of(&context.transfer_syntax);
    let answer = async {
        let data = encoded(identifier, &context.transfer_syntax);
        association.send_with_data(context.id, &request.encode(), &data).await?;
        let mut rows = Vec::new();
        loop {
            let response = scu::response(&mut association, &request).await?;
            let data = data_of(&mut association, &context, &response).await?;
            if !response.status.is_pending() {
                return Ok(Found {
                    status: response.status,
                    comment: response.comment,
                    rows,
                });
            }
            if rows.len() == MAX_ANSWERS {
                let what = format!("more than {MAX_ANSWERS} answers to a query");
                return Err(Broken::violation(AbortReason::NotSpecified, what));
            }
            rows.push((data, encoding));
        }
    };
    let answer = answer.await;
    finish(dial, association, answer).await
}

/// C-MOVE in the Study Root model to an AE title. Takes as long as the peer sends: the timeout is for each response.
pub async fn move_to(dial: &Dial, identifier: Vec<u8>, destination: &str) -> Result<Moved, ScuError> {
    let (mut association, context) = open_for(dial, STUDY_ROOT_MOVE, Vec::new()).await?;
    let destination = destination.to_owned();
    let request = request_for(Operation::Move { destination }, STUDY_ROOT_MOVE);
    let answer = async {
        let data = encoded(identifier, &context.transfer_syntax);
        association.send_with_data(context.id, &request.encode(), &data).await?;
        let mut progress = Progress::default();
        loop {
            let response = scu::response(&mut association, &request).await?;
            data_of(&mut association, &context, &response).await?;
            progress = response.progress.unwrap_or(progress);
            if !response.status.is_pending() {
                return Ok(Moved {
                    status: response.status,
                    comment: response.comment,
                    progress,
                });
            }
        }
    };
    let answer = answer.await;
    finish(dial, association, answer).await
}

fn request_for(operation: Operation, class: &str) -> Request {
    Request {
        operation,
        message_id: 1,
        sop_class_uid: class.into(),
        has_data: true,
    }
}

async fn data_of(association: &mut Association, context: &Context, response: &Response) -> Result<Vec<u8>, Broken> {
    if !response.has_data {
        return Ok(Vec::new());
    }
    let data = association.data_set(context.id, MAX_ANSWER_BYTES).await?;
    data.map_err(|too_long| Broken::violation(AbortReason::NotSpecified, too_long.to_string()))
}
