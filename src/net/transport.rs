//! The socket of an association: every wait has an end, every length a limit, small packets leave at once.

use crate::net::pdu::{self, AbortReason};
use bytes::{Bytes, BytesMut};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Room asked for before each read; larger PDUs ask for what they lack.
const READ_AHEAD: usize = 65_536;
/// After our last PDU the peer gets this long to close, so that a reset does not overtake what we said.
const LINGER: Duration = Duration::from_secs(2);
/// What is thrown away while lingering, at most.
const LINGER_BYTES: usize = 4 << 20;

/// Why an association ended other than by release.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer aborted (source {source_code}, reason {reason})")]
    Aborted { source_code: u8, reason: u8 },
    #[error("timed out after {} s waiting for {what}", after.as_secs_f64())]
    TimedOut { what: &'static str, after: Duration },
    /// The peer broke the protocol; it is told with this reason.
    #[error("protocol violation: {what}")]
    Violation { what: String, reason: AbortReason },
    #[error("network: {0}")]
    Io(#[from] io::Error),
}

impl Broken {
    pub fn violation(reason: AbortReason, what: impl Into<String>) -> Self {
        Self::Violation {
            what: what.into(),
            reason,
        }
    }
}

/// A connected socket with its receive buffer.
pub struct Transport {
    stream: TcpStream,
    buffer: BytesMut,
    /// Longest wait for the next PDU to begin, and again for it to be complete.
    read_timeout: Duration,
    write_timeout: Duration,
}

impl Transport {
    /// Turns Nagle's algorithm off: with delayed acknowledgements it costs 40 ms for each image.
    pub fn new(stream: TcpStream, read_timeout: Duration, write_timeout: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: BytesMut::new(),
            read_timeout,
            write_timeout,
        })
    }

    pub fn set_read_timeout(&mut self, read_timeout: Duration) {
        self.read_timeout = read_timeout;
    }

    /// Waits for the next PDU header: type and length. Nothing is reserved for the length.
    pub async fn header(&mut self) -> Result<(u8, usize), Broken> {
        let header = self.take(pdu::HEADER_BYTES, "the next PDU").await?;
        let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
        Ok((header[0], length as usize))
    }

    /// Exactly `count` bytes, as a slice of the receive buffer. The caller has checked `count` against its limit.
    pub async fn take(&mut self, count: usize, what: &'static str) -> Result<Bytes, Broken> {
        if self.buffer.len() < count {
            let after = self.read_timeout;
            timeout(after, self.fill(count))
                .await
                .map_err(|_| Broken::TimedOut { what, after })??;
        }
        Ok(self.buffer.split_to(count).freeze())
    }

    /// Waits until something has come that is not taken yet, or the peer is gone. Takes nothing, so it may be dropped at any time.
    pub async fn readable(&mut self) -> Result<(), Broken> {
        self.fill(1).await
    }

    /// Dropping this between reads loses nothing: what came is in the buffer.
    async fn fill(&mut self, count: usize) -> Result<(), Broken> {
        while self.buffer.len() < count {
            self.buffer.reserve((count - self.buffer.len()).max(READ_AHEAD));
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(Broken::Closed);
            }
            acknowledge_at_once(&self.stream);
        }
        Ok(())
    }

    /// Reads the body of an A-ABORT and makes the error of it.
    pub async fn aborted(&mut self, length: usize) -> Broken {
        if length != 4 {
            return Broken::violation(AbortReason::InvalidParameter, format!("A-ABORT of {length} bytes"));
        }
        match self.take(4, "the rest of A-ABORT").await {
            Ok(body) => Broken::Aborted {
                source_code: body[2],
                reason: body[3],
            },
            Err(broken) => broken,
        }
    }

    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let after = self.write_timeout;
        timeout(after, self.stream.write_all(bytes))
            .await
            .map_err(|_| Broken::TimedOut {
                what: "the peer to take what we send",
                after,
            })??;
        Ok(())
    }

    /// Says the last word and closes. Failures are of no consequence: the association is over either way.
    pub async fn farewell(mut self, last: &[u8]) {
        let goodbye = async {
            self.write(last).await?;
            self.stream.shutdown().await?;
            let mut thrown_away = 0;
            while thrown_away < LINGER_BYTES {
                self.buffer.clear();
                self.buffer.reserve(READ_AHEAD);
                match self.stream.read_buf(&mut self.buffer).await? {
                    0 => break,
                    count => thrown_away += count,
                }
            }
            Ok::<(), Broken>(())
        };
        let _ = timeout(LINGER, goodbye).await;
    }
}

/// Senders that keep Nagle's algorithm on wait for our acknowledgement between command and data; Linux forgets this
/// option after use, so it is set again after each read.
#[cfg(target_os = "linux")]
fn acknowledge_at_once(stream: &TcpStream) {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, and the option value outlives the call.
    // A failure only costs speed.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUICKACK,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

#[cfg(not(target_os = "linux"))]
fn acknowledge_at_once(_: &TcpStream) {}
