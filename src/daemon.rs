//! The composition root: the only place that knows everyone. Start and stop order live here.
//!
//! Start: store, recovery, models, intake, then the threads, and the listener last, so that nobody can send before all of it
//! stands. Stop: listener, drop folders and gathering, then the lane (its job is given back), then delivery.

use crate::archive::Archive;
use crate::config::Config;
use crate::delivery;
use crate::engines;
use crate::gather::Gatherer;
use crate::intake::{Intake, Options};
use crate::net;
use crate::net::tls::Tls;
use crate::pipeline::Engines;
use crate::progress::{Progress, Silent};
use crate::scp;
use crate::store::Store;
use crate::watch::Folders;
use crate::web::{self, Web};
use crate::worker::{Handle, Lane};
use anyhow::Context;
use jiff::Timestamp;
use sd_notify::NotifyState;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime as Tokio;
use tokio::sync::{Notify, watch as flag};

/// How long a stop waits for sends under way.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// Threads for blocking work beyond those of associations.
const OTHER_BLOCKING_THREADS: usize = 64;

/// A running daemon. [`Daemon::stop`] ends it cleanly; dropping it does not.
pub struct Daemon {
    /// Where it listens: the port the system chose when the configuration said 0.
    pub address: SocketAddr,
    pub store: Store,
    lane: Handle,
    stop: flag::Sender<bool>,
    threads: Vec<(&'static str, JoinHandle<()>)>,
    listening: tokio::task::JoinHandle<()>,
    delivering: tokio::task::JoinHandle<()>,
    /// `None`: there is no web port.
    web: Option<tokio::task::JoinHandle<()>>,
    intake: Intake,
    tls: Option<Arc<Tls>>,
    tokio: Tokio,
}

/// Lifts the soft limit of open files to the hard one: an association holds about five descriptors, and outside systemd 1024 is the
/// usual limit.
fn allow_descriptors() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls only read or fill the struct, which outlives them.
    let lifted = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !lifted {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "cannot lift the limit of open files");
    }
}

impl Daemon {
    /// Starts everything; returns once the daemon answers associations.
    ///
    /// # Errors
    /// When the storage, a model, the runtime or the port can not be had. Nothing runs on then.
    pub fn start(config: Config, progress: Arc<dyn Progress + Send + Sync>) -> anyhow::Result<Self> {
        let config = Arc::new(config);
        allow_descriptors();
        let (store, intake) = open_storage(&config)?;
        let runtime = engines::runtime(&config)?;
        let engines = engines::load(&config, &runtime)?;
        tell_assignments(&engines);

        let tokio = tokio::runtime::Builder::new_multi_thread()
            // Each association runs on one, and the store and the files of deliveries need some besides.
            .max_blocking_threads(config.written.dicom.max_associations + OTHER_BLOCKING_THREADS)
            .enable_all()
            .build()
            .context("cannot start the network")?;
        let tls = Tls::of(&config).context("[dicom.tls]")?;
        let doors = tokio.block_on(doors(&config, tls.as_ref()))?;
        let address = doors.plain.local_addr()?;
        let (stop, stopping) = flag::channel(false);
        let bell = Arc::new(Notify::new());
        let lane = Handle::default();

        let kept = {
            let bell = bell.clone();
            Box::new(move || bell.notify_one())
        };
        let lane_thread = Lane {
            store: store.clone(),
            config: config.clone(),
            engines,
            handle: lane.clone(),
            kept,
            progress,
        };
        let mut threads = vec![("lane", spawn("lane", move || lane_thread.run())?)];
        let gatherer = Gatherer::new(&config, store.clone(), intake.clone());
        let (stopped, waking) = (stopping.clone(), lane.clone());
        let gathering = move || gatherer.run(|| *stopped.borrow(), || waking.wake());
        threads.push(("gather", spawn("gather", gathering)?));
        let drop_folders = &config.written.watch.folders;
        if !drop_folders.is_empty() {
            let folders = Folders::new(drop_folders, intake.clone())?;
            let stopped = stopping.clone();
            threads.push(("watch", spawn("watch", move || folders.run(|| *stopped.borrow()))?));
        }
        let archive = Archive::new(&store, &intake);
        let web = tokio.block_on(open_web(&config, &archive, tls.clone(), stopping.clone()))?;
        let sending = send_out(archive.clone(), config.clone(), tls.clone(), bell, stopping.clone());
        let delivering = tokio.spawn(sending);
        let listening = tokio.spawn(scp::serve(
            doors,
            scp::Settings::new(&config, archive, tls.as_ref()),
            intake.clone(),
            until(stopping),
        ));
        tracing::info!(%address, ae_title = %config.ae_title, "listening");
        Ok(Self {
            address,
            store,
            lane,
            stop,
            threads,
            listening,
            delivering,
            web,
            intake,
            tls,
            tokio,
        })
    }

    /// Takes up replaced certificates. New associations would by themselves; so the log says early what is wrong with them.
    pub fn refresh_certificates(&self) {
        self.tls.iter().for_each(|tls| tls.refresh());
    }

    /// Grows as long as the compute lane is alive, for the watchdog.
    pub fn heartbeat(&self) -> u64 {
        self.lane.heartbeat()
    }

    /// False once a part has ended by itself: the process should end and be started again.
    pub fn is_whole(&self) -> bool {
        !self.listening.is_finished()
            && !self.delivering.is_finished()
            && !self.web.as_ref().is_some_and(tokio::task::JoinHandle::is_finished)
            && self.threads.iter().all(|(_, t)| !t.is_finished())
    }

    /// Ends everything in order: messages under way are finished, the running job is given back, sends are finished.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.tokio.block_on(self.listening);
        if let Some(web) = self.web {
            let _ = self
                .tokio
                .block_on(async { tokio::time::timeout(STOP_GRACE, web).await });
        }
        self.lane.stop();
        for (name, thread) in self.threads {
            if thread.join().is_err() {
                tracing::error!(thread = name, "ended by a panic");
            }
        }
        let delivering = self.delivering;
        let _ = self
            .tokio
            .block_on(async { tokio::time::timeout(STOP_GRACE, delivering).await });
        if let Err(error) = self.intake.flush() {
            tracing::error!(%error, "the last rows are not committed; the next start rebuilds them from the files");
        }
        self.tokio.shutdown_timeout(Duration::from_secs(2));
        tracing::info!("stopped");
    }
}

/// The web port, where one is configured.
async fn open_web(
    config: &Config,
    archive: &Archive,
    tls: Option<Arc<Tls>>,
    stopping: flag::Receiver<bool>,
) -> anyhow::Result<Option<tokio::task::JoinHandle<()>>> {
    let listen = &config.written.web.listen;
    if listen.is_empty() {
        return Ok(None);
    }
    let web = Web::new(config, archive.clone(), tls)?;
    let listener = match TcpListener::bind(listen).await {
        Ok(listener) => listener,
        // Scanners must not be turned away because something else sits on the web port.
        Err(error) => {
            tracing::error!(listen, %error, "there is no web port; give web.listen another one, or make it empty");
            return Ok(None);
        }
    };
    tracing::info!(address = %listener.local_addr()?, "web port open");
    Ok(Some(tokio::spawn(web::serve(listener, web, until(stopping)))))
}

/// Everything that goes out by itself: results, the question whether they are kept, and our answers to the same question.
async fn send_out(
    archive: Archive,
    config: Arc<Config>,
    tls: Option<Arc<Tls>>,
    bell: Arc<Notify>,
    stopping: flag::Receiver<bool>,
) {
    let stop = || until(stopping.clone());
    let store = archive.store.clone();
    let targets = scp::targets(&config, tls.as_ref());
    tokio::join!(
        delivery::run(store.clone(), config.clone(), tls.clone(), bell, stop()),
        delivery::pledges::run(store, config, tls, stop()),
        scp::report_commitments(archive, targets, stop()),
    );
}

/// Which provider really runs each model, and loudly what was passed over.
fn tell_assignments(engines: &Engines) {
    for assignment in engines.assignments() {
        let provider = &assignment.provider;
        tracing::info!(model = assignment.model, provider, nodes = ?assignment.nodes, "model loaded");
        assignment
            .warnings
            .iter()
            .for_each(|warning| tracing::warn!(model = assignment.model, "{warning}"));
    }
}

/// The listeners of both ports.
async fn doors(config: &Config, tls: Option<&Arc<Tls>>) -> anyhow::Result<scp::Doors> {
    let bind = async |listen: &str| {
        let bound = TcpListener::bind(listen).await;
        bound.with_context(|| format!("cannot listen on {listen}"))
    };
    let dicom = &config.written.dicom;
    let plain = bind(&dicom.listen).await?;
    let encrypted = match tls {
        Some(tls) if !dicom.tls.listen.is_empty() => {
            let listener = bind(&dicom.tls.listen).await?;
            tracing::info!(address = %listener.local_addr()?, "listening with TLS");
            Some((listener, tls.clone()))
        }
        _ => None,
    };
    Ok(scp::Doors { plain, encrypted })
}

fn open_storage(config: &Config) -> anyhow::Result<(Store, Intake)> {
    let dir = &config.written.storage.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let store = Store::open(dir, jiff::tz::TimeZone::system())?;
    let recovered = store.recover(Timestamp::now())?;
    let options = Options {
        min_free_bytes: (config.written.storage.min_free_gb * 1e9) as u64,
        max_object_bytes: config.written.dicom.max_object_mb << 20,
        teaching_ae: Some(config.teaching_ae.clone()),
        clock: Timestamp::now,
    };
    let (intake, rebuilt) = Intake::open(store.clone(), options).map_err(|error| anyhow::anyhow!("{error}"))?;
    tracing::info!(
        queued_again = recovered.queued_again.len(),
        failed = recovered.failed.len(),
        rows_rebuilt = rebuilt.instances_added,
        temporary_files_removed = rebuilt.temporary_files_removed,
        quarantined = rebuilt.quarantined,
        "storage open"
    );
    Ok((store, intake))
}

fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .with_context(|| format!("cannot start the {name} thread"))
}

async fn until(mut stopping: flag::Receiver<bool>) {
    // An error means that the sender is gone: the daemon was dropped, which is a stop as well.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// `medlsamd serve`: runs until SIGTERM or SIGINT, and tells systemd when it is ready, alive and stopping.
///
/// # Errors
/// When it can not start, or when one of its parts ended by itself.
pub fn serve(config: Config) -> anyhow::Result<()> {
    let daemon = Daemon::start(config, Arc::new(Silent))?;
    notify(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("listening on {}", daemon.address)),
    ]);
    let signal = net::blocking(wait(&daemon));
    notify(&[NotifyState::Stopping]);
    daemon.stop();
    signal
}

/// Waits for a signal, petting the watchdog as long as the lane moves.
async fn wait(daemon: &Daemon) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    // systemd expects a sign of life within WatchdogSec; a third of it leaves room for two lost ones.
    let every = sd_notify::watchdog_enabled().map_or(Duration::from_secs(10), |limit| limit / 3);
    let mut tick = tokio::time::interval(every);
    let mut last = None;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => daemon.refresh_certificates(),
            _ = tick.tick() => {
                anyhow::ensure!(daemon.is_whole(), "a part of the daemon ended by itself; see the log above");
                daemon.refresh_certificates();
                // A lane that stands still gets no sign of life: systemd then restarts us, and the attempt counts.
                let beat = daemon.heartbeat();
                if last != Some(beat) {
                    notify(&[NotifyState::Watchdog]);
                }
                last = Some(beat);
            }
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
