//! When a series is taken as whole: [`decide`] is the rule, [`Gatherer`] carries it out.
//!
//! Evidence closes a series early: its protocol's least slices and extent without a gap, nobody feeding it any more, and a short
//! silence, because some scanners open one association per image. Without evidence a longer silence closes it, and one that never
//! falls silent is closed after the longest wait. What comes after that opens a new job (see `store::instances`).

use crate::config::{Config, Protocol, SeriesTiming};
use crate::dicom::header::Instance;
use crate::intake::Intake;
use crate::job::{Job, JobId, Purpose};
use crate::lesson::{self, Subject};
use crate::protocol;
use crate::series::{self, Requirements};
use crate::store::{Store, StoreError, StoredInstance};
use jiff::Timestamp;
use std::collections::HashMap;
use std::time::Duration;

/// Says whether instances form a gap-free stack that fulfils the requirements; `Err` is the reason why not, for people.
pub type WholeCheck = fn(Vec<Instance>, &Requirements) -> Result<(), String>;

/// The check of the daemon: the same code that the pipeline will order the slices with.
pub fn assembles(instances: Vec<Instance>, requirements: &Requirements) -> Result<(), String> {
    let series = series::assemble(instances, requirements).map_err(|rejection| rejection.to_string())?;
    // A gap that could be bridged may still be filled by what is on its way.
    series.gap().map_or(Ok(()), |gap| Err(gap.to_owned()))
}

/// What is known about a series that is still being gathered. Times in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts<'a> {
    /// Since the last instance, or since the daemon started if that is later: after a restart a sender gets time to go on.
    pub quiet_s: f64,
    /// Since the first instance.
    pub age_s: f64,
    /// An open association has fed it.
    pub fed: bool,
    /// `Err`: why it is not whole.
    pub evidence: Result<(), &'a str>,
}

/// What to do, and why, in words for the job's story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    KeepReceiving,
    Wait(String),
    Close(String),
}

/// The rule, a pure function.
pub fn decide(facts: &Facts<'_>, timing: &SeriesTiming) -> Decision {
    let SeriesTiming {
        settle_s,
        quiet_period_s,
        max_wait_s,
    } = *timing;
    if facts.age_s >= max_wait_s {
        let text = match facts.evidence {
            Ok(()) => format!("whole, and gathered for {max_wait_s} s (series.max_wait_s)"),
            Err(why) => format!("taken as it is after {max_wait_s} s (series.max_wait_s), though {why}"),
        };
        return Decision::Close(text);
    }
    if facts.quiet_s < settle_s {
        return Decision::KeepReceiving;
    }
    if facts.fed {
        return Decision::Wait("waits for the end of an association that sent instances of it".to_owned());
    }
    match facts.evidence {
        Ok(()) => Decision::Close(format!(
            "whole: gap-free, association ended, {settle_s} s of silence (series.settle_s)"
        )),
        Err(why) if facts.quiet_s >= quiet_period_s => Decision::Close(format!(
            "taken as it is after {quiet_period_s} s of silence (series.quiet_period_s), though {why}"
        )),
        Err(why) => Decision::Wait(format!("waits for more, at most {quiet_period_s} s of silence: {why}")),
    }
}

/// What one step moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    pub queued: Vec<JobId>,
    pub refused: Vec<JobId>,
}

/// How often the clock is looked at.
const PERIOD: Duration = Duration::from_millis(250);

/// Closes series as time goes by.
pub struct Gatherer {
    store: Store,
    intake: Intake,
    protocols: Vec<Protocol>,
    timing: SeriesTiming,
    whole: WholeCheck,
    started_at: Timestamp,
    /// Reading every header is worth doing once per set of instances.
    judged: HashMap<JobId, (u32, Judgement)>,
    /// The same of drawn objects that wait for their CT.
    subjects: HashMap<JobId, (u32, Subject)>,
}

/// What the instances of a job say.
#[derive(Clone, Debug)]
struct Judgement {
    /// Name and priority, or the clauses that did not fit.
    protocol: Result<(String, i64), String>,
    evidence: Result<(), String>,
}

impl Gatherer {
    pub fn new(config: &Config, store: Store, intake: Intake) -> Self {
        let (protocols, timing) = (config.written.protocol.clone(), config.written.series.clone());
        Self {
            store,
            intake,
            protocols,
            timing,
            whole: assembles,
            started_at: Timestamp::now(),
            judged: HashMap::new(),
            subjects: HashMap::new(),
        }
    }

    /// Runs until `stop` says so; calls `wake` whenever a job was queued. Blocking; give it a thread of its own.
    pub fn run(mut self, stop: impl Fn() -> bool, wake: impl Fn()) {
        while !stop() {
            match self.step(Timestamp::now()) {
                Ok(moved) if moved.queued.is_empty() => {}
                Ok(_) => wake(),
                // Nothing is lost: the rows stand as they were, and the next round decides again.
                Err(error) => tracing::error!(%error, "cannot decide on the series being received"),
            }
            std::thread::sleep(PERIOD);
        }
    }

    /// Decides for every series that is being gathered. Blocking.
    pub fn step(&mut self, now: Timestamp) -> Result<Moved, StoreError> {
        // Asked before the rows are read: an association leaves this set only when all its rows are in the database.
        let fed = self.intake.fed_series();
        let jobs = self.store.gathering_jobs()?;
        self.judged.retain(|id, _| jobs.iter().any(|job| job.id == *id));
        self.subjects.retain(|id, _| jobs.iter().any(|job| job.id == *id));
        let mut moved = Moved::default();
        for job in &jobs {
            self.advance(job, fed.contains(&job.series), now, &mut moved)?;
        }
        Ok(moved)
    }

    fn advance(&mut self, job: &Job, fed: bool, now: Timestamp, moved: &mut Moved) -> Result<(), StoreError> {
        let seconds_since = |then: Timestamp| now.duration_since(then).as_secs_f64();
        let quiet_s = seconds_since(job.last_instance_at.max(self.started_at));
        let age_s = seconds_since(job.gathering_since);
        if quiet_s < self.timing.settle_s && age_s < self.timing.max_wait_s {
            return Ok(());
        }
        let judgement = self.judge(job)?;
        let evidence = match &judgement.evidence {
            Ok(()) => Ok(()),
            Err(why) => Err(why.as_str()),
        };
        let mut timing = self.timing.clone();
        if self.subjects.contains_key(&job.id) {
            // Silence says nothing here: it is the CT that is waited for.
            timing.quiet_period_s = timing.max_wait_s;
        }
        match decide(
            &Facts {
                quiet_s,
                age_s,
                fed,
                evidence,
            },
            &timing,
        ) {
            Decision::KeepReceiving => {}
            Decision::Wait(reason) => self.store.fell_silent(job.id, &reason, now)?,
            Decision::Close(why) => match &judgement.protocol {
                Ok((name, priority)) => {
                    let text = format!("{} instances for protocol {name}, {why}", job.instances);
                    if self.store.close(job, name, *priority, &text, now)? {
                        tracing::info!(
                            job = job.id.0,
                            protocol = name,
                            instances = job.instances,
                            "series closed"
                        );
                        moved.queued.push(job.id);
                    }
                }
                Err(clauses) => {
                    self.store.refuse(job.id, clauses, now)?;
                    tracing::info!(
                        job = job.id.0,
                        instances = job.instances,
                        "series refused, no protocol matches"
                    );
                    moved.refused.push(job.id);
                }
            },
        }
        Ok(())
    }

    fn judge(&mut self, job: &Job) -> Result<Judgement, StoreError> {
        if let Some((instances, judgement)) = self.judged.get(&job.id)
            && *instances == job.instances
        {
            return Ok(judgement.clone());
        }
        let stored = self.store.job_instances(job.id)?;
        if job.purpose == Purpose::Teach && stored.iter().any(|instance| lesson::is_drawn(&instance.sop_class_uid)) {
            return self.judge_lesson(job, &stored);
        }
        let images: Result<Vec<_>, _> = stored.iter().map(|instance| Instance::images(&instance.path)).collect();
        let judgement = match images {
            Ok(images) if job.purpose == Purpose::Teach => Judgement {
                protocol: Ok((lesson::PROTOCOL.into(), 0)),
                evidence: (self.whole)(images.concat(), &lesson::ANY_CT),
            },
            Ok(images) => self.judge_headers(images.concat()),
            // Not swallowed: the series is closed as it is for the first protocol, and the run fails on the same file.
            Err(error) => {
                tracing::error!(job = job.id.0, %error, "cannot read a stored instance");
                let first = self.protocols.first().map(|p| (p.name.clone(), p.priority));
                Judgement {
                    protocol: first.ok_or_else(|| error.to_string()),
                    evidence: Err(error.to_string()),
                }
            }
        };
        self.judged.insert(job.id, (job.instances, judgement.clone()));
        Ok(judgement)
    }

    /// Drawn objects are whole when their CT is here. What cannot be read is left to the run, which says why.
    fn judge_lesson(&mut self, job: &Job, stored: &[StoredInstance]) -> Result<Judgement, StoreError> {
        let known = self
            .subjects
            .get(&job.id)
            .filter(|(instances, _)| *instances == job.instances);
        let subject = match known {
            Some((_, subject)) => Ok(subject.clone()),
            None => lesson::read(stored).map(|objects| lesson::subject(&objects, &job.series.study_instance_uid)),
        };
        let evidence = match subject {
            Ok(subject) => {
                let ct = lesson::ct_of(&self.store, &subject, job)?;
                self.subjects.insert(job.id, (job.instances, subject));
                ct.map(drop)
            }
            Err(_unreadable) => Ok(()),
        };
        Ok(Judgement {
            protocol: Ok((lesson::PROTOCOL.into(), 0)),
            evidence,
        })
    }

    fn judge_headers(&self, headers: Vec<Instance>) -> Judgement {
        match protocol::find(&self.protocols, &headers) {
            Ok(found) => {
                let requirements = Requirements {
                    min_slices: found.min_slices,
                    min_extent_mm: found.min_extent_mm,
                };
                Judgement {
                    protocol: Ok((found.name.clone(), found.priority)),
                    evidence: (self.whole)(headers, &requirements),
                }
            }
            Err(none) => Judgement {
                protocol: Err(none.to_string()),
                evidence: Err(none.to_string()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: SeriesTiming = SeriesTiming {
        settle_s: 5.0,
        quiet_period_s: 60.0,
        max_wait_s: 3600.0,
    };

    fn decided(quiet_s: f64, age_s: f64, fed: bool, evidence: Result<(), &str>) -> Decision {
        decide(
            &Facts {
                quiet_s,
                age_s,
                fed,
                evidence,
            },
            &TIMING,
        )
    }

    #[test]
    fn evidence_closes_after_the_settle_time_and_not_before_the_association_ends() {
        assert_eq!(decided(4.9, 10.0, false, Ok(())), Decision::KeepReceiving);
        assert!(matches!(decided(5.0, 10.0, true, Ok(())), Decision::Wait(why) if why.contains("association")));
        assert!(matches!(decided(5.0, 10.0, false, Ok(())), Decision::Close(why) if why.starts_with("whole")));
    }

    #[test]
    fn without_evidence_the_quiet_period_closes_and_the_reason_is_told() {
        let gap = Err("a slice is missing at z = 12.5 mm");
        assert!(matches!(decided(59.9, 70.0, false, gap), Decision::Wait(why) if why.contains("z = 12.5 mm")));
        assert!(matches!(decided(60.0, 70.0, false, gap), Decision::Close(why) if why.contains("z = 12.5 mm")));
    }

    #[test]
    fn a_series_that_never_falls_silent_is_closed_in_the_end() {
        assert!(matches!(
            decided(0.1, 3600.0, true, Err("few slices")),
            Decision::Close(_)
        ));
    }
}
