//! The compute lane: claim a job, run the pipeline, keep what it made. One named thread that owns the models.
//!
//! A panic in one job harms no other: it is caught, counted as a stumble, and the next job starts with the same models.

use crate::config::Config;
use crate::dicom::header::{HeaderError, Instance};
use crate::dicom::uid::Uid;
use crate::dispatch;
use crate::job::{Job, JobId, KeptResult, MAX_ATTEMPTS, Outcome as Ending, Parcel, Purpose, Summary};
use crate::lesson::{self, Learned};
use crate::pipeline::{self, Engines, Outcome, PipelineError, Report, Request, Verdict};
use crate::process;
use crate::progress::Progress;
use crate::results::notice::{self, Notice};
use crate::results::{Identity, ResultObject};
use crate::series::{self, Requirements};
use crate::store::{Store, StoreError, StoredInstance};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the lane sleeps when nobody wakes it: `medlsamd jobs retry` runs in another process and can not.
const POLL: Duration = Duration::from_millis(500);
/// Pause before a stumbled job is tried again, times the attempt.
const STUMBLE_PAUSE_S: i64 = 10;

/// Wakes the lane, stops it, and tells whether it still moves.
#[derive(Clone, Default)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    woken: Mutex<bool>,
    bell: Condvar,
    stop: AtomicBool,
    /// Counts steps of progress and idle rounds: a number that stands still means a hang.
    heartbeat: AtomicU64,
}

impl Handle {
    /// A job may be ready.
    pub fn wake(&self) {
        *self.shared.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.bell.notify_all();
    }

    /// Stop after the step at hand; the running job is given back.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub fn is_stopping(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    /// Grows as long as the lane is alive, for the watchdog.
    pub fn heartbeat(&self) -> u64 {
        self.shared.heartbeat.load(Ordering::Relaxed)
    }

    fn beat(&self) {
        self.shared.heartbeat.fetch_add(1, Ordering::Relaxed);
    }

    fn sleep(&self) {
        let woken = self.shared.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut woken, _) = self
            .shared
            .bell
            .wait_timeout_while(woken, POLL, |woken| !*woken)
            .unwrap_or_else(PoisonError::into_inner);
        *woken = false;
    }
}

/// What the lane works with.
pub struct Lane {
    pub store: Store,
    pub config: Arc<Config>,
    pub engines: Engines,
    pub handle: Handle,
    /// Told when results were kept, so that delivery need not poll.
    pub kept: Box<dyn Fn() + Send>,
    /// Also told how a job gets on; the demonstration shows it.
    pub progress: Arc<dyn Progress + Send + Sync>,
}

impl Lane {
    /// Runs until stopped. Blocking; give it a thread of its own.
    pub fn run(mut self) {
        while !self.handle.is_stopping() {
            self.handle.beat();
            match self.store.claim(Timestamp::now()) {
                Ok(Some(job)) => self.work(&job),
                Ok(None) => self.handle.sleep(),
                Err(error) => {
                    tracing::error!(%error, "cannot claim a job");
                    self.handle.sleep();
                }
            }
        }
    }

    fn work(&mut self, job: &Job) {
        let span = tracing::info_span!("job", job = job.id.0);
        let _entered = span.enter();
        tracing::info!(series = %job.series.series_instance_uid, attempt = job.attempts, "job begins");
        let result = catch_unwind(AssertUnwindSafe(|| match job.purpose {
            Purpose::Outline => self.compute(job).map(|outcome| Made::Results(outcome.into())),
            Purpose::Teach => self.learn(job).map(Made::Lesson),
        }));
        let result = result.unwrap_or_else(|panic| {
            Err(PipelineError::Stumbled(format!(
                "a bug stopped the job: {}",
                panic_text(panic.as_ref())
            )))
        });
        let settled = match result {
            Ok(Made::Results(outcome)) => self.keep(job, &outcome),
            Ok(Made::Lesson(learned)) => self.keep_lesson(job, learned),
            Err(error) => self.end(job, &error),
        };
        if let Err(error) = settled {
            // The row still says running; the next start queues it again, and the attempt is counted.
            tracing::error!(%error, "cannot record the end of the job");
        }
    }

    fn compute(&mut self, job: &Job) -> Result<Outcome, PipelineError> {
        let name = job.protocol.as_deref().unwrap_or_default();
        let protocol = self
            .config
            .protocol(name)
            .ok_or_else(|| PipelineError::GaveUp(format!("protocol {name:?} is no longer in the configuration")))?;
        let instances = headers(&self.stored(job.id)?)?;
        let request = Request {
            requirements: Requirements {
                min_slices: protocol.min_slices,
                min_extent_mm: protocol.min_extent_mm,
            },
            structures: process::wanted(&protocol.structures, &self.engines)
                .map_err(|error| PipelineError::GaveUp(error.to_string()))?,
            results: dispatch::plan(&self.config, protocol).0,
            identity: job.identity.clone(),
        };
        let watch = JobWatch {
            store: &self.store,
            job: job.id,
            handle: &self.handle,
            outer: self.progress.as_ref(),
            asked: Mutex::new(None),
        };
        pipeline::run(instances, &request, &mut self.engines, &watch)
    }

    fn stored(&self, job: JobId) -> Result<Vec<StoredInstance>, PipelineError> {
        self.store.job_instances(job).map_err(stumbled)
    }

    /// A CT that came to be learned from is only looked at; what was drawn on one is learned.
    fn learn(&mut self, job: &Job) -> Result<Learned, PipelineError> {
        let stored = self.stored(job.id)?;
        let drawn = lesson::read(&stored)?;
        if drawn.is_empty() {
            series::assemble(headers(&stored)?, &lesson::ANY_CT)?;
            return Ok(Learned::default());
        }
        let subject = lesson::subject(&drawn, &job.series.study_instance_uid);
        let ct = lesson::ct_of(&self.store, &subject, job).map_err(stumbled)?;
        let ct =
            ct.map_err(|why| PipelineError::Refused(format!("{why}, then say `medlsamd jobs retry {}`", job.id)))?;
        let instances = headers(&self.stored(ct.id)?)?;
        lesson::learn(
            &drawn,
            instances,
            &mut self.engines.localiser,
            &self.config.written.models.templates,
        )
    }

    fn keep_lesson(&self, job: &Job, learned: Learned) -> Result<(), StoreError> {
        let now = Timestamp::now();
        self.store.note(job.id, &learned.said(), now)?;
        let summary = Summary {
            structures_found: learned.structures,
            structures_missing: learned.left_out,
            models: self.engines.models_used().into_iter().take(1).collect(),
            ..Summary::default()
        };
        let state = self.store.keep(job, &[], &summary, &[], now)?;
        tracing::info!(%state, "lesson kept");
        Ok(())
    }

    fn keep(&self, job: &Job, outcome: &Outcome) -> Result<(), StoreError> {
        let dir = self.store.results_dir(job.id);
        let kept = match keep_files(&dir, outcome) {
            Ok(kept) => kept,
            Err(error) => {
                let reason = format!("cannot keep the results in {}: {error}", dir.display());
                return self.end(job, &PipelineError::Stumbled(reason));
            }
        };
        crate::failpoint::hit("worker_before_keep");
        let name = job.protocol.as_deref().unwrap_or_default();
        let planned = self.config.protocol(name).map(|p| dispatch::plan(&self.config, p).1);
        let written: Vec<&str> = kept.iter().map(|result| result.kind.as_str()).collect();
        let parcels = dispatch::of_written(planned.unwrap_or_default(), &written);
        let (summary, now) = (summary(&outcome.report), Timestamp::now());
        let state = self.store.keep(job, &kept, &summary, &parcels, now)?;
        tracing::info!(%state, results = kept.len(), "results kept");
        (self.kept)();
        Ok(())
    }

    fn end(&self, job: &Job, error: &PipelineError) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let ending = match error {
            PipelineError::Refused(reason) => Ending::Refused(reason.clone()),
            PipelineError::GaveUp(reason) => Ending::GaveUp(reason.clone()),
            PipelineError::Stumbled(reason) => {
                let pause = SignedDuration::from_secs(STUMBLE_PAUSE_S * i64::from(job.attempts.max(1)));
                Ending::Stumbled {
                    reason: reason.clone(),
                    retry_at: now.saturating_add(pause).unwrap_or(now),
                }
            }
            PipelineError::Cancelled if self.store.is_cancelled(job.id)? => {
                tracing::info!("job was cancelled");
                return Ok(());
            }
            PipelineError::Cancelled => Ending::Refunded,
        };
        let is_last = match &ending {
            Ending::Refused(_) | Ending::GaveUp(_) => true,
            Ending::Stumbled { .. } => job.attempts >= MAX_ATTEMPTS,
            Ending::Refunded => false,
        };
        let notice = if is_last {
            self.notice(job, &error.to_string())
        } else {
            Ok(None)
        };
        let state = match notice {
            Ok(Some((kept, parcels))) => self.store.end_with(job, &ending, Some((&kept, &parcels)), now)?,
            Ok(None) => self.store.end(job, &ending, now)?,
            Err(problem) => {
                let state = self.store.end(job, &ending, now)?;
                tracing::error!(problem, "no notice could be written");
                self.store
                    .note(job.id, &format!("no notice could be written: {problem}"), now)?;
                state
            }
        };
        tracing::warn!(%state, reason = %error, "job ended without results");
        (self.kept)();
        Ok(())
    }

    /// Keeps a notice of why the series came to nothing, if the protocol wants one and somebody is to get it.
    fn notice(&self, job: &Job, reason: &str) -> Result<Option<(KeptResult, Vec<Parcel>)>, String> {
        let protocol = self.config.protocol(job.protocol.as_deref().unwrap_or_default());
        let Some((protocol, kind)) = protocol.and_then(|p| Some((p, notice::kind(&p.notice)?))) else {
            return Ok(None);
        };
        if protocol.send_to.is_empty() {
            return Ok(None);
        }
        let instances = self.store.job_instances(job.id).map_err(|error| error.to_string())?;
        let readable = instances.iter().find_map(|stored| Instance::read(&stored.path).ok());
        // One UID never stands for two contents: another reason is another notice.
        let identity = Identity {
            uid_seed: Uid::derived(&[&job.identity.uid_seed, "notice", reason]).to_string(),
            ..job.identity.clone()
        };
        let notice = Notice {
            instance: &readable.ok_or("no instance of the series can be read")?,
            identity: &identity,
            reason,
        };
        let object = (kind.write)(&notice).map_err(|error| error.to_string())?;
        let dir = self.store.results_dir(job.id);
        let kept = std::fs::create_dir_all(&dir)
            .and_then(|()| keep_object(&dir, &object))
            .and_then(|kept| sync_with_parent(&dir).map(|()| kept))
            .map_err(|error| format!("{}: {error}", dir.display()))?;
        let parcels = dispatch::to_all(protocol, &kept.kind);
        Ok(Some((kept, parcels)))
    }
}

/// What a run made.
enum Made {
    Results(Box<Outcome>),
    Lesson(Learned),
}

fn stumbled(error: impl std::fmt::Display) -> PipelineError {
    PipelineError::Stumbled(error.to_string())
}

fn headers(stored: &[StoredInstance]) -> Result<Vec<Instance>, PipelineError> {
    let images = stored.iter().map(|instance| Instance::images(&instance.path));
    let images = images.collect::<Result<Vec<_>, _>>().map_err(|error| match error {
        HeaderError::Io { .. } => stumbled(error),
        other => PipelineError::Refused(other.to_string()),
    });
    Ok(images?.concat())
}

/// Asks the store now and then whether an operator cancelled the job.
struct JobWatch<'a> {
    store: &'a Store,
    job: JobId,
    handle: &'a Handle,
    outer: &'a dyn Progress,
    asked: Mutex<Option<(Instant, bool)>>,
}

impl Progress for JobWatch<'_> {
    fn stage(&self, name: &'static str, total: usize) {
        tracing::info!(stage = name, steps = total, "stage begins");
        self.outer.stage(name, total);
        self.handle.beat();
    }

    fn step(&self, done: usize) {
        self.outer.step(done);
        self.handle.beat();
    }

    fn cancelled(&self) -> bool {
        if self.handle.is_stopping() {
            return true;
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match *asked {
            Some((at, answer)) if at.elapsed() < POLL => answer,
            _ => {
                // A database that does not answer is no reason to give up the work.
                let answer = self.store.is_cancelled(self.job).unwrap_or(false);
                *asked = Some((Instant::now(), answer));
                answer
            }
        }
    }
}

/// Writes the objects, the picture and the report durably: temporary file, fsync, rename, then the directory.
fn keep_files(dir: &Path, outcome: &Outcome) -> std::io::Result<Vec<KeptResult>> {
    std::fs::create_dir_all(dir)?;
    let kept = outcome
        .objects
        .iter()
        .map(|object| keep_object(dir, object))
        .collect::<Result<Vec<_>, _>>()?;
    put_durably(&dir.join("picture.png"), &outcome.picture)?;
    put_durably(&dir.join("report.json"), &serde_json::to_vec_pretty(&outcome.report)?)?;
    sync_with_parent(dir)?;
    Ok(kept)
}

fn keep_object(dir: &Path, object: &ResultObject) -> std::io::Result<KeptResult> {
    let path = dir.join(format!("{}.dcm", object.key));
    put_durably(&path, &object.part10)?;
    Ok(KeptResult {
        kind: object.key.clone(),
        sop_class_uid: object.sop_class_uid.clone(),
        sop_instance_uid: object.sop_instance_uid.clone(),
        transfer_syntax_uid: object.transfer_syntax_uid.clone(),
        path,
        sha256: Sha256::digest(&object.part10)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    })
}

fn sync_with_parent(dir: &Path) -> std::io::Result<()> {
    std::fs::File::open(dir)?.sync_all()?;
    dir.parent()
        .map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
}

fn put_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = std::fs::File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&partial, path)
}

fn summary(report: &Report) -> Summary {
    let found = |verdict: Verdict| verdict != Verdict::NotFound;
    let mut providers: Vec<&str> = report.assignments.iter().map(|a| a.provider.as_str()).collect();
    providers.sort_unstable();
    providers.dedup();
    Summary {
        structures_found: report
            .structures
            .iter()
            .filter(|s| found(s.verdict))
            .map(|s| s.name.to_string())
            .collect(),
        structures_missing: report
            .structures
            .iter()
            .filter(|s| !found(s.verdict))
            .map(|s| (s.name.to_string(), s.reasons.join("; ")))
            .collect(),
        provider: providers.join("+"),
        models: report.models.clone(),
        report_json: serde_json::to_string(report).unwrap_or_default(),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}
