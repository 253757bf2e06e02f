//! Upper layer (PS3.8) and DIMSE (PS3.7) over TCP. Knows no hospital logic.
//!
//! [`pdu`] is the bytes of the association PDUs, [`transport`] the socket with its limits, [`tls`] its encryption (`certificate`:
//! when it ends), [`negotiation`] the choice of presentation contexts, [`association`] an open association in either role, [`dimse`] the typed commands, [`scu`] asking others
//! ([`outgoing`]: the objects it sends), [`requests`] more than storage.
//!
//! P-DATA is parsed here rather than through a library reader, because a PDV is handed on as a slice of the receive buffer: no
//! object is ever held in memory, and a length field is compared with its limit before anything is reserved for it.

pub mod pdu;
pub mod transport;
mod certificate;
pub mod tls;
pub mod negotiation;
pub mod association;
pub mod dimse;
pub mod scu;
pub mod outgoing;
pub mod requests;

/// A stranger's text for a log line: short, and without control characters.
pub fn printable(text: &str) -> String {
    text.chars()
        .take(64)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Runs what blocks where blocking is allowed. The error is a panic's text.
pub async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|panic| panic.to_string())
}

/// Runs a future to its end on a small runtime of its own, for commands that are not async. Must not be called from async code.
pub fn blocking<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .expect("a runtime without threads needs nothing but memory and a few descriptors")
        .block_on(future)
}
