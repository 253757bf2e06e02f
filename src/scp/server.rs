//! The listening side: who comes in finds a place or is told that there is none, and has a thread of its own.

use crate::intake::AssociationId;
use crate::net::association;
use crate::net::pdu::Reject;
use crate::net::printable;
use crate::net::tls::Tls;
use crate::net::transport::Transport;
use crate::scp::places::{Full, Places};
use crate::scp::session::Session;
use crate::scp::{Receiver, Settings};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::instrument::WithSubscriber;
use tracing::{Instrument, error, info, info_span, warn};

/// Where callers come in.
pub struct Doors {
    pub plain: TcpListener,
    /// The port where everything is encrypted, with its certificates.
    pub encrypted: Option<(TcpListener, Arc<Tls>)>,
}

impl From<TcpListener> for Doors {
    fn from(plain: TcpListener) -> Self {
        Self { plain, encrypted: None }
    }
}

impl Doors {
    async fn accept(&self) -> io::Result<Caller> {
        let (accepted, tls) = match &self.encrypted {
            None => (self.plain.accept().await, None),
            Some((listener, tls)) => tokio::select! {
                accepted = self.plain.accept() => (accepted, None),
                accepted = listener.accept() => (accepted, Some(tls.clone())),
            },
        };
        let (stream, address) = accepted?;
        Ok(Caller {
            stream: stream.into_std()?,
            address,
            tls,
        })
    }
}

/// Somebody at a door, to be talked to on any thread.
pub(in crate::scp) struct Caller {
    stream: std::net::TcpStream,
    pub address: SocketAddr,
    tls: Option<Arc<Tls>>,
}

impl Caller {
    fn host(&self) -> IpAddr {
        self.address.ip().to_canonical()
    }

    /// With the TLS handshake where one is due. The caller of this bounds the time.
    pub async fn open(self, read_timeout: Duration, write_timeout: Duration) -> io::Result<Transport> {
        let stream = TcpStream::from_std(self.stream)?;
        match self.tls {
            None => Transport::new(stream, read_timeout, write_timeout),
            Some(tls) => {
                let stream = tls.accept(stream).await;
                let stream = stream.map_err(|error| io::Error::other(format!("TLS: {error}")))?;
                Transport::new(stream, read_timeout, write_timeout)
            }
        }
    }
}

/// Callers for whom there is no place who are told so at the same time; further ones are dropped without a word.
const LOBBY: usize = 32;
/// How long a caller in the lobby may take to say who it is.
const LOBBY_TIMEOUT: Duration = Duration::from_secs(5);
/// After `shutdown`, associations in the middle of a message get this long to finish it.
const GRACE: Duration = Duration::from_secs(10);
/// Pause after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves associations until `shutdown` resolves; then takes no more, lets messages under way finish, aborts the rest.
/// When it returns, every association's `association_closed` has run, save those that outlasted the grace of 10 s.
pub async fn serve<R: Receiver>(
    doors: impl Into<Doors>,
    settings: Settings,
    receiver: R,
    shutdown: impl Future<Output = ()>,
) {
    let doors = doors.into();
    let settings = Arc::new(settings);
    let places = Places::new(
        settings.dicom.max_associations,
        settings.dicom.max_associations_per_host,
    );
    let lobby = Arc::new(Semaphore::new(LOBBY));
    let (stop, stopping) = watch::channel(false);
    let (cut_off, cutting_off) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut last_id = 0;
    tokio::pin!(shutdown);
    loop {
        let caller = tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = tasks.join_next() => {
                report(ended);
                continue;
            }
            accepted = doors.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    error!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        last_id += 1;
        let span = info_span!("association", id = last_id, peer = %caller.host(), tls = caller.tls.is_some());
        match places.take(caller.host()) {
            Ok(place) => {
                let association = Session {
                    id: AssociationId(last_id),
                    settings: settings.clone(),
                    receiver: receiver.clone(),
                    place,
                    stopping: stopping.clone(),
                };
                let talk = association.run(caller).instrument(span).with_current_subscriber();
                let cut_off = cutting_off.clone();
                tasks.spawn_blocking(move || {
                    if let Err(error) = alone(talk, cut_off) {
                        error!(%error, "cannot serve an association");
                    }
                });
            }
            Err(full) => match lobby.clone().try_acquire_owned() {
                Ok(seat) => {
                    let task = async move {
                        turn_away(caller, full).await;
                        drop(seat);
                    };
                    tasks.spawn(task.instrument(span));
                }
                Err(_) => warn!(parent: &span, cause = %full, "dropped a caller: the lobby is full too"),
            },
        }
    }
    drop(doors);
    drain(tasks, &stop, &cut_off).await;
}

/// Runs an association on this thread alone, which may therefore block: see `spooler`. `cut_off` ends it at its next wait.
fn alone(association: impl Future<Output = ()>, mut cut_off: watch::Receiver<bool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            biased;
            _ = cut_off.wait_for(|&cut_off| cut_off) => {}
            () = association => {}
        }
    });
    Ok(())
}

async fn drain(mut tasks: JoinSet<()>, stop: &watch::Sender<bool>, cut_off: &watch::Sender<bool>) {
    stop.send_replace(true);
    info!(associations = tasks.len(), "no longer accepting associations");
    if timeout(GRACE, all_ended(&mut tasks)).await.is_ok() {
        return;
    }
    warn!(
        associations = tasks.len(),
        grace_s = GRACE.as_secs(),
        "cut off associations that did not end"
    );
    cut_off.send_replace(true);
    // Each ends at its next wait. One that hangs in the file system has none, and must not keep the daemon from stopping.
    if timeout(GRACE, all_ended(&mut tasks)).await.is_err() {
        error!(
            associations = tasks.len(),
            "associations hang in the file system and end with the process"
        );
    }
}

async fn all_ended(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        report(ended);
    }
}

/// A panic in one association is its own: the others and the listener go on.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "an association panicked and was dropped");
    }
}

/// Rejects a caller for whom there is no place: it may come again (PS3.8 table 9-21).
async fn turn_away(caller: Caller, full: Full) {
    let deadline = Instant::now() + LOBBY_TIMEOUT;
    let opened = timeout_at(deadline, caller.open(LOBBY_TIMEOUT, LOBBY_TIMEOUT)).await;
    let Ok(Ok(mut transport)) = opened else { return };
    let request = timeout_at(deadline, association::read_request(&mut transport)).await;
    let calling = request
        .ok()
        .and_then(Result::ok)
        .map(|request| printable(&request.calling_ae));
    warn!(calling, cause = %full, "refused association");
    transport.farewell(&Reject::LOCAL_LIMIT_EXCEEDED.encode()).await;
}
