//! What comes to the teaching AE title: a CT, and the RTSTRUCT or SEG that somebody drew on it → a template of the site's own bank.
//!
//! Both travel as ordinary series and have jobs of their own, so that they are durable, listed and explained like all others. The
//! job of a CT only checks that it is one. The job of the drawn objects waits until their CT is here, however it came, and then
//! teaches.

use crate::dicom::header::Instance;
use crate::dicom::uid::Uid;
use crate::job::{Job, State};
use crate::labels::take::{self, ByHand};
use crate::labels::{self, Labels};
use crate::localise::Localiser;
use crate::pipeline::PipelineError;
use crate::progress::Silent;
use crate::series::{self, Requirements, Series};
use crate::store::{Store, StoreError, StoredInstance};
use crate::teach::{self, Others, Placed, TeachError};
use crate::volume;
use std::path::Path;

/// What the database calls the protocol of a lesson.
pub const PROTOCOL: &str = "teaching";

/// Of a CT to learn from, short crops included.
pub const ANY_CT: Requirements = Requirements {
    min_slices: 2,
    min_extent_mm: 1.0,
};

/// Where the CT of drawn objects is to be looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Series that the objects refer to.
    pub series: Vec<Uid>,
    pub study: Uid,
}

/// What a lesson changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Of the template; `None` of a CT that waits for its structures.
    pub id: Option<String>,
    pub structures: Vec<String>,
    /// Regions that were left out, each with the reason.
    pub left_out: Vec<(String, String)>,
}

impl Learned {
    /// For the job's story. Names of regions are somebody's free text and stay out of it.
    pub fn said(&self) -> String {
        match &self.id {
            None => "a CT to learn from; it waits for an RTSTRUCT or SEG".into(),
            Some(id) => format!(
                "template {id} learned {}; {} regions were left out",
                self.structures.join(", "),
                self.left_out.len()
            ),
        }
    }
}

/// Whether an object is drawn on a CT, by its SOP class.
pub fn is_drawn(sop_class_uid: &Uid) -> bool {
    labels::SOP_CLASSES.contains(&sop_class_uid.as_str())
}

/// Reads the drawn objects of a series.
///
/// # Errors
/// Refused when one cannot be read.
pub fn read(stored: &[StoredInstance]) -> Result<Vec<Labels>, PipelineError> {
    let drawn = stored.iter().filter(|instance| is_drawn(&instance.sop_class_uid));
    let read = drawn.map(|instance| {
        labels::read_file(&instance.path)
            .map_err(|error| PipelineError::Refused(format!("instance {}: {error}", instance.sop_instance_uid)))
    });
    read.collect()
}

/// What drawn objects refer to.
pub fn subject(objects: &[Labels], study: &Uid) -> Subject {
    let mut series: Vec<Uid> = objects
        .iter()
        .flat_map(|object| object.referenced_series.clone())
        .collect();
    series.sort();
    series.dedup();
    Subject {
        series,
        study: study.clone(),
    }
}

/// The newest job of the CT: of a series that is referred to, or, when none is, of the only other series of the study.
///
/// # Errors
/// Only the database's own; `Ok(Err(why))` says in words why there is no CT yet.
pub fn ct_of(store: &Store, subject: &Subject, own: &Job) -> Result<Result<Job, String>, StoreError> {
    let mut jobs = Vec::new();
    for uid in &subject.series {
        jobs.extend(store.jobs_of_series(uid)?);
    }
    if subject.series.is_empty() {
        jobs = store.jobs_of_study(&subject.study)?;
    }
    jobs.retain(|job| job.series != own.series);
    let Some(newest) = jobs.iter().max_by_key(|job| job.id) else {
        let wanted: Vec<&str> = subject.series.iter().map(Uid::as_str).collect();
        let what = match wanted.as_slice() {
            [] => format!("of study {}", subject.study),
            some => format!("of series {}", some.join(" or ")),
        };
        return Ok(Err(format!(
            "its CT ({what}) is not here; send it to the teaching AE title too"
        )));
    };
    if subject.series.is_empty() && jobs.iter().any(|job| job.series != newest.series) {
        let why = "it does not say which of the study's series it was drawn on; export it with references".into();
        return Ok(Err(why));
    }
    Ok(match newest.state {
        State::Receiving | State::Waiting => Err(format!("its CT (job {}) is still arriving", newest.id)),
        _ => Ok(newest.clone()),
    })
}

/// Learns from the drawn objects of one series and their CT.
///
/// # Errors
/// Refused when they do not fit each other or the templates that are known; the text says what a person can do.
pub fn learn(
    drawn: &[Labels],
    ct: Vec<Instance>,
    localiser: &mut Localiser,
    templates: &Path,
) -> Result<Learned, PipelineError> {
    let refused = |what: String| PipelineError::Refused(what);
    let series: Series = series::assemble(ct, &ANY_CT)?;
    if series.uneven.is_some() {
        return Err(refused(format!(
            "{}; templates need an even stack",
            series.remarks.join("; ")
        )));
    }
    let volume = volume::reconstruct(&series, &Silent)?;
    let taken = take::take(drawn, &series, &ByHand::default()).map_err(|error| refused(error.to_string()))?;
    let structures = teach::points_of_masks(&volume.grid, &taken.masks);
    let left_out = taken.facts.iter().filter(|fact| fact.structure.is_none());
    let left_out: Vec<(String, String)> = left_out.map(|f| (f.name.clone(), f.remarks.join("; "))).collect();
    if structures.is_empty() {
        return Err(refused(format!(
            "none of its {} regions is a structure that we know; map them with `medlsamd template add --as`",
            left_out.len()
        )));
    }
    let placed = Placed {
        volume: teach::case_id(&series.series_instance_uid),
        made_by: take::made_by(drawn),
        structures,
        ..Placed::on_site()
    };
    let observation = localiser.observe(&volume)?;
    let checks = teach::check(localiser, &observation, &placed);
    let far: Vec<String> = checks
        .iter()
        .filter(|c| c.far)
        .map(|c| format!("{}: {}", c.structure, c.said))
        .collect();
    if !far.is_empty() {
        return Err(refused(format!(
            "nothing was learned: {}. Are names and sides right? If they are, `medlsamd template add --anyway` takes the case",
            far.join("; ")
        )));
    }
    let added = teach::add_observed(templates, localiser, &observation, &placed, Others::Kept);
    let template = added.map_err(|error| match error {
        TeachError::Write { .. } => PipelineError::Stumbled(format!(
            "{error}; models.templates must be writable for the daemon's user"
        )),
        other => refused(other.to_string()),
    })?;
    localiser.bank.templates.insert(placed.volume.clone(), template);
    Ok(Learned {
        id: Some(placed.volume),
        structures: placed.structures.into_keys().collect(),
        left_out,
    })
}
