//! The socket of an association: every wait has an end, every length a limit, small packets leave at once.

use crate::net::pdu::{self, AbortReason};
use bytes::{Bytes, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsStream;

/// Room of a receive buffer; association PDUs ask for what they lack.
const READ_AHEAD: usize = 65_536;
/// With less room a new buffer is begun. It is not begun earlier, because slices of the old one may wait for the disk and keep it:
/// a peer that sends single bytes must not make each of them cost a buffer.
const LEAST_ROOM: usize = READ_AHEAD / 4;
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

/// A connected socket, encrypted or not.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// A connected socket with its receive buffer.
pub struct Transport {
    stream: Stream,
    buffer: BytesMut,
    /// Longest wait for the next PDU to begin, and again for it to be complete.
    read_timeout: Duration,
    write_timeout: Duration,
}

impl Transport {
    /// Turns Nagle's algorithm off: with delayed acknowledgements it costs 40 ms for each image.
    pub fn new(stream: impl Into<Stream>, read_timeout: Duration, write_timeout: Duration) -> io::Result<Self> {
        let stream = stream.into();
        stream.socket().set_nodelay(true)?;
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

    /// When what begins now must be complete.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.read_timeout
    }

    /// What is there of `most` bytes, at least one unless `most` is 0, as a slice of the receive buffer. The caller keeps the
    /// deadline of the whole, so that trickling gains no time.
    pub async fn take_some(&mut self, most: usize, deadline: Instant) -> Result<Bytes, Broken> {
        if self.buffer.is_empty() && most > 0 {
            let after = self.read_timeout;
            let late = |_| Broken::TimedOut {
                what: "the rest of a presentation data value",
                after,
            };
            timeout_at(deadline, self.fill(1)).await.map_err(late)??;
        }
        let count = most.min(self.buffer.len());
        Ok(self.buffer.split_to(count).freeze())
    }

    /// Waits until something has come that is not taken yet, or the peer is gone. Takes nothing, so it may be dropped at any time.
    pub async fn readable(&mut self) -> Result<(), Broken> {
        self.fill(1).await
    }

    /// Dropping this between reads loses nothing: what came is in the buffer.
    async fn fill(&mut self, count: usize) -> Result<(), Broken> {
        while self.buffer.len() < count {
            let lacking = count - self.buffer.len();
            if self.buffer.capacity() - self.buffer.len() < lacking.max(LEAST_ROOM) {
                self.buffer.reserve(lacking.max(READ_AHEAD));
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(Broken::Closed),
                Ok(_) => acknowledge_at_once(self.stream.socket()),
                // TLS says so when the peer hangs up without its own word of farewell.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Broken::Closed),
                Err(error) => return Err(error.into()),
            }
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
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(after, written).await.map_err(|_| Broken::TimedOut {
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
