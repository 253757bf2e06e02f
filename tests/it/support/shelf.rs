//! Our SCP in this process, with a shelf in memory in the place of the intake.

use crate::support::dataset::intake_options;
use jiff::tz::TimeZone;
use medlsamd::config::{Dicom, Peer, Permission};
use medlsamd::dicom::ae::{Address, AeTitle};
use medlsamd::intake::{AssociationId, Claim, Intake, IntakeError};
use medlsamd::net::scu::Dial;
use medlsamd::net::tls::Tls;
use medlsamd::scp::{Doors, Receiver, Settings, serve};
use medlsamd::store::Store;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What came, and what to do with what comes.
#[derive(Default)]
pub struct Contents {
    /// Objects of which something came.
    pub begun: usize,
    pub stored: Vec<(Claim, Vec<u8>)>,
    pub opened: Vec<AssociationId>,
    pub closed: Vec<AssociationId>,
    /// Out of resources once an object has more bytes than this.
    pub full_after: Option<usize>,
    /// Panics at the next write.
    pub panics: bool,
    /// Fails when an association is closed.
    pub cannot_close: bool,
    /// A slow disk: pause before each object is taken.
    pub pause: Duration,
}

#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<Contents>>);

pub struct Open {
    shelf: Shelf,
    claim: Claim,
    bytes: Vec<u8>,
}

impl Shelf {
    pub fn with<T>(&self, look: impl FnOnce(&mut Contents) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Waits until every opened association is closed.
    pub async fn settled(&self) {
        self.until(|c| c.opened.len() == c.closed.len()).await;
    }

    /// Waits for what must come about.
    pub async fn until(&self, come: impl Fn(&Contents) -> bool) {
        for _ in 0..6000 {
            if self.with(|c| come(c)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited a minute for the intake in vain");
    }
}

impl Receiver for Shelf {
    type Spool = Open;
    type Receipt = ();
    fn association_opened(&self, association: AssociationId) {
        self.with(|c| c.opened.push(association));
    }
    fn association_closed(&self, association: AssociationId) -> Result<(), IntakeError> {
        self.with(|c| {
            c.closed.push(association);
            if c.cannot_close {
                Err(IntakeError::OutOfResources("sync failed".into()))
            } else {
                Ok(())
            }
        })
    }
    fn begin(&self, claim: Claim) -> Result<Open, IntakeError> {
        self.with(|c| c.begun += 1);
        Ok(Open {
            shelf: self.clone(),
            claim,
            bytes: Vec::new(),
        })
    }
    fn write(open: &mut Open, bytes: &[u8]) -> Result<(), IntakeError> {
        let (panics, full_after) = open.shelf.with(|c| (c.panics, c.full_after));
        assert!(!panics, "the test asked for a panic");
        open.bytes.extend_from_slice(bytes);
        match full_after {
            Some(limit) if open.bytes.len() > limit => Err(IntakeError::OutOfResources("disk full".into())),
            _ => Ok(()),
        }
    }
    fn finish(open: Open) -> Result<(), IntakeError> {
        let pause = open.shelf.with(|c| c.pause);
        std::thread::sleep(pause);
        open.shelf.with(|c| c.stored.push((open.claim, open.bytes)));
        Ok(())
    }
}

/// A server on a free port of the loopback.
pub struct Server {
    pub address: SocketAddr,
    encrypted: Option<SocketAddr>,
    pub shelf: Shelf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

pub fn peer_entry(ae_title: &str, host: &str, may: &[Permission]) -> Peer {
    Peer {
        ae_title: ae_title.into(),
        host: host.into(),
        may: may.to_vec(),
        ..Peer::default()
    }
}

/// Of a server called MEDLSAM, MEDLSAM_TEACH to learn, with nothing behind the wire.
pub fn settings(dicom: Dicom, peers: Vec<Peer>) -> Settings {
    let title = |text| AeTitle::parse(text).unwrap();
    Settings {
        ae_title: title("MEDLSAM"),
        teaching_ae: title("MEDLSAM_TEACH"),
        dicom,
        peers,
        targets: Vec::new(),
        archive: None,
    }
}

impl Server {
    /// Called MEDLSAM; `SENDER` from here may store, `VISITOR` may only echo.
    pub async fn start(change: impl FnOnce(&mut Dicom)) -> Self {
        Self::start_with(change, None).await
    }

    /// The same with a second, encrypted port.
    pub async fn start_with(change: impl FnOnce(&mut Dicom), tls: Option<Arc<Tls>>) -> Self {
        let mut dicom = Dicom::default();
        change(&mut dicom);
        let peers = vec![
            peer_entry("SENDER", "127.0.0.1", &[Permission::Store]),
            peer_entry("VISITOR", "any", &[]),
            peer_entry("ELSEWHERE", "192.0.2.1", &[Permission::Store]),
        ];
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut doors = Doors::from(bind().await);
        if let Some(tls) = tls {
            doors.encrypted = Some((bind().await, tls));
        }
        let address = doors.plain.local_addr().unwrap();
        let encrypted = doors.encrypted.as_ref().map(|(door, _)| door.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let shelf = Shelf::default();
        let settings = settings(dicom, peers);
        let served = serve(doors, settings, shelf.clone(), async {
            let _ = stopped.await;
        });
        Self {
            address,
            encrypted,
            shelf,
            stop,
            task: tokio::spawn(served),
        }
    }

    pub fn encrypted(&self) -> SocketAddr {
        self.encrypted.expect("started with TLS")
    }

    pub fn dial(&self, calling: &str) -> Dial {
        dial(calling, &format!("MEDLSAM@127.0.0.1:{}", self.address.port()))
    }

    pub async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap();
    }
}

pub fn dial(calling: &str, address: &str) -> Dial {
    Dial {
        calling_ae: AeTitle::parse(calling).unwrap(),
        address: address.parse::<Address>().unwrap(),
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_secs(20),
        tls: None,
    }
}

/// The real intake behind the real wire, until the test ends: its storage, and where it listens.
pub async fn real_intake(change: impl FnOnce(&mut Dicom)) -> (tempfile::TempDir, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), TimeZone::UTC).unwrap();
    let (intake, _) = Intake::open(store, intake_options()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut dicom = Dicom::default();
    change(&mut dicom);
    let settings = settings(dicom, vec![peer_entry("SENDER", "any", &[Permission::Store])]);
    tokio::spawn(serve(listener, settings, intake, std::future::pending()));
    (dir, address)
}
