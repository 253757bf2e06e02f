//! C-FIND: the archive searches on a thread of its own while answers leave and a cancel may come.

use crate::archive::Asking;
use crate::dicom::status::Status;
use crate::net::requests::encoded;
use crate::net::transport::Broken;
use crate::query;
use crate::scp::identifier::refusal;
use crate::scp::session::{Dialogue, End, Session, refuse};
use crate::scp::{Receiver, Root};
use std::ops::ControlFlow;
use tokio::sync::mpsc;
use tracing::info;

/// More answers are refused with A700: nobody reads them, and the one who asked meant something narrower.
const MAX_ANSWERS: usize = 10_000;
/// Answers found ahead of what the peer has taken.
const AHEAD: usize = 32;

impl<R: Receiver> Session<R> {
    pub(in crate::scp) async fn find(&mut self, mut dialogue: Dialogue<'_>, root: Root) -> Result<(), End> {
        let (archive, identifier) = match self.identifier(&mut dialogue, root).await? {
            Ok(asked) => asked,
            Err((status, comment)) => return dialogue.end(status, &comment).await,
        };
        let asking = Asking {
            retrieve_ae_title: self.settings.ae_title.to_string(),
        };
        let level = identifier.level.as_str();
        let (rows, mut inbox) = mpsc::channel(AHEAD);
        let search = tokio::task::spawn_blocking(move || {
            archive.find(&identifier, &asking, |row| match rows.blocking_send(row) {
                Ok(()) => ControlFlow::Continue(()),
                // Cancelled, or the association broke.
                Err(_) => ControlFlow::Break(()),
            })
        });
        let mut count = 0;
        let stopped = loop {
            tokio::select! {
                biased;
                heard = dialogue.association.readable() => {
                    heard?;
                    if dialogue.hear_cancel().await? {
                        break Some((Status::CANCELLED, String::new()));
                    }
                }
                row = inbox.recv() => match row {
                    None => break None,
                    Some(_) if count == MAX_ANSWERS => {
                        let comment = format!("more than {MAX_ANSWERS} answers, ask for less");
                        break Some((Status::OUT_OF_RESOURCES, comment));
                    }
                    Some(row) => {
                        count += 1;
                        dialogue.pending(row).await?;
                    }
                },
            }
        };
        drop(inbox);
        let searched = search.await.map_err(|panic| End::Failed(panic.to_string()))?;
        let (status, comment) = match (stopped, searched) {
            (Some(stopped), _) => stopped,
            (None, Ok(())) => (Status::SUCCESS, String::new()),
            (None, Err(error)) => refusal(&error),
        };
        info!(level, answers = count, %status, "answered a query");
        dialogue.end(status, &comment).await
    }
}

impl Dialogue<'_> {
    /// One more row.
    async fn pending(&mut self, row: query::Answer) -> Result<(), Broken> {
        let status = match row.keys_ignored {
            true => Status::PENDING_KEYS_IGNORED,
            false => Status::PENDING,
        };
        let mut response = self.request.answer(status, "");
        response.has_data = true;
        let data = encoded(row.encode(), &self.context.transfer_syntax);
        self.association
            .send_with_data(self.context.id, &response.encode(), &data)
            .await
    }

    /// The last response, whose data set, if there was one, is read already.
    pub async fn end(self, status: Status, comment: &str) -> Result<(), End> {
        let response = match status {
            Status::SUCCESS | Status::CANCELLED => self.request.answer(status, comment),
            _ => refuse(self.request, status, comment),
        };
        Ok(self.association.send(self.context.id, &response.encode(), &[]).await?)
    }
}
