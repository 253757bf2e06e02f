//! One series in, its result objects out: reads as the clinical story.

mod report;

pub use crate::pipeline::report::{ObjectReport, Report, StageTime, StructureReport, Verdict};

use crate::dicom::header::Instance;
use crate::inference::runtime::{Assignment, InferenceError};
use crate::localise::{Finding, Localiser, Located};
use crate::mask::{self, Mask};
use crate::plausible;
use crate::progress::Progress;
use crate::proof::{self, Proof, ProofError};
use crate::results::style::Style;
use crate::results::{self, Identity, Kind, Measure, ModelUsed, ResultError, ResultObject, Source};
use crate::segment::{Outline, Segmenter};
use crate::series::{self, Rejection, Requirements, Series};
use crate::structure::{Role, Structure};
use crate::volume::body::Body;
use crate::volume::{self, Volume, VolumeError};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What is wanted of a series.
#[derive(Clone, Debug)]
pub struct Request {
    pub requirements: Requirements,
    pub structures: Vec<&'static Structure>,
    /// Every object to write, each once.
    pub results: Vec<Wanted>,
    pub identity: Identity,
}

/// An object to write: its kind, in the style of a profile.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub kind: &'static Kind,
    pub profile: String,
    pub style: Style,
    /// Another object says the same: when this one cannot hold the masks, the run goes on without it.
    pub optional: bool,
}

impl Wanted {
    pub fn generic(kind: &'static Kind) -> Self {
        Self {
            kind,
            profile: results::GENERIC.into(),
            style: Style::default(),
            optional: false,
        }
    }
}

/// The resident models. One thread owns them.
pub struct Engines {
    pub localiser: Localiser,
    pub segmenter: Segmenter,
}

/// Everything one run produced, before any of it is kept.
pub struct Outcome {
    pub series: Series,
    pub masks: Vec<Mask>,
    pub objects: Vec<ResultObject>,
    /// A PNG contact sheet for people.
    pub picture: Vec<u8>,
    pub report: Report,
}

/// Why a run ended without results, named for what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// Refuse: the input is not eligible. Running again would say the same.
    #[error("{0}")]
    Refused(String),
    /// Retry: something around us failed.
    #[error("{0}")]
    Stumbled(String),
    /// Fail: a person must look.
    #[error("{0}")]
    GaveUp(String),
    /// Told to stop by [`Progress::cancelled`].
    #[error("cancelled")]
    Cancelled,
}

impl From<Rejection> for PipelineError {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(rejection.to_string())
    }
}

impl From<VolumeError> for PipelineError {
    fn from(error: VolumeError) -> Self {
        match error {
            VolumeError::Cancelled => Self::Cancelled,
            VolumeError::Slice { .. } => Self::Refused(error.to_string()),
        }
    }
}

impl From<InferenceError> for PipelineError {
    fn from(error: InferenceError) -> Self {
        match error {
            InferenceError::Cancelled => Self::Cancelled,
            InferenceError::Run { .. } => Self::Stumbled(error.to_string()),
            _ => Self::GaveUp(error.to_string()),
        }
    }
}

impl From<ResultError> for PipelineError {
    fn from(error: ResultError) -> Self {
        Self::GaveUp(error.to_string())
    }
}

impl From<ProofError> for PipelineError {
    fn from(error: ProofError) -> Self {
        Self::GaveUp(error.to_string())
    }
}

/// The six steps: assemble, reconstruct, locate, outline, write, prove.
pub fn run(
    instances: Vec<Instance>,
    request: &Request,
    engines: &mut Engines,
    progress: &dyn Progress,
) -> Result<Outcome, PipelineError> {
    let mut clock = StageClock::default();
    let busy_before = engines.busy();

    let series = clock.time("assemble", || series::assemble(instances, &request.requirements))?;
    let volume = clock.time("reconstruct", || volume::reconstruct(&series, progress))?;
    let found = outline(&volume, request, engines, progress, &mut clock)?;
    let models = engines.models_used();
    let sheet = clock.time("picture", || results::picture::contact_sheet(&volume, &found.masks));
    let Found {
        masks,
        measures,
        structures,
    } = found.onto_slices(&series)?;
    let source = Source {
        series: &series,
        masks: &masks,
        measures: &measures,
        sheet: &sheet,
        identity: &request.identity,
        models: &models,
        profile: results::GENERIC,
        style: &Style::default(),
        kinds: &[],
    };
    progress.stage("write", request.results.len());
    let (objects, mut notes) = clock.time("write", || write(&request.results, &source))?;
    notes.extend(series.remarks.iter().cloned());
    progress.stage("prove", objects.len());
    let proofs = clock.time("prove", || prove(&objects, &series, &masks))?;

    let report = Report {
        software: format!("medlsamd {}", env!("CARGO_PKG_VERSION")),
        study_instance_uid: series.study_instance_uid.to_string(),
        series_instance_uid: series.series_instance_uid.to_string(),
        slices: series.slices.len(),
        slice_spacing_mm: volume.grid.spacing_mm[2],
        structures,
        objects: objects.iter().map(ObjectReport::of).collect(),
        set_aside: series
            .set_aside
            .iter()
            .map(|(uid, why)| (uid.to_string(), why.clone()))
            .collect(),
        proofs,
        notes,
        stages: clock.stages,
        runtime_s: (engines.busy() - busy_before).as_secs_f64(),
        models,
        assignments: engines.assignments(),
        revision: request.identity.revision,
    };
    Ok(Outcome {
        series,
        masks,
        objects,
        picture: sheet.png(),
        report,
    })
}

/// Every wanted object, and a note for each optional one that cannot hold these masks.
fn write(wanted: &[Wanted], source: &Source<'_>) -> Result<(Vec<ResultObject>, Vec<String>), ResultError> {
    let (mut objects, mut notes) = (Vec::new(), Vec::new());
    for one in wanted {
        let alike = wanted.iter().filter(|other| other.profile == one.profile);
        let kinds: Vec<&str> = alike.map(|other| other.kind.name).collect();
        let source = Source {
            kinds: &kinds,
            profile: &one.profile,
            style: &one.style,
            ..*source
        };
        match (one.kind.write)(&source) {
            Ok(object) => objects.push(object),
            Err(error @ ResultError::Overlap { .. }) if one.optional => {
                notes.push(format!("no {} was written: {error}", one.kind.name))
            }
            Err(error) => return Err(error),
        }
    }
    Ok((objects, notes))
}

/// Reads every object back before any is kept.
fn prove(objects: &[ResultObject], series: &Series, masks: &[Mask]) -> Result<Vec<Proof>, ProofError> {
    let mut proofs = Vec::new();
    for object in objects {
        proofs.extend(proof::prove(object, series, masks)?);
    }
    Ok(proofs)
}

impl Engines {
    /// Time spent inside ONNX Runtime by all sessions so far.
    pub fn busy(&self) -> Duration {
        self.localiser.session.busy + self.segmenter.encoder.busy + self.segmenter.decoder.busy
    }

    pub fn assignments(&self) -> Vec<Assignment> {
        [
            &self.localiser.session,
            &self.segmenter.encoder,
            &self.segmenter.decoder,
        ]
        .map(|session| session.assignment.clone())
        .into()
    }

    pub fn models_used(&self) -> Vec<ModelUsed> {
        [&self.localiser.manifest, &self.segmenter.manifest]
            .map(|m| ModelUsed {
                name: m.name.clone(),
                version: m.version.clone(),
                sha256: m.sha256.clone(),
            })
            .into()
    }
}

/// What goes into the results, and what became of every wanted structure.
#[derive(Default)]
struct Found {
    masks: Vec<Mask>,
    /// One per mask.
    measures: Vec<Measure>,
    structures: Vec<StructureReport>,
}

/// Locates and outlines what the networks know, and computes the body where it is asked for. A body alone is a result only where
/// nothing else was wanted: beside organs that were not found it would pass for an answer.
fn outline(
    volume: &Volume,
    request: &Request,
    engines: &mut Engines,
    progress: &dyn Progress,
    clock: &mut StageClock,
) -> Result<Found, PipelineError> {
    let (sought, computed): (Vec<_>, Vec<_>) = request.structures.iter().partition(|s| s.role == Role::Organ);
    let mut found = Found::default();
    if !sought.is_empty() {
        let findings = clock.time("localise", || engines.localiser.locate(volume, &sought, progress))?;
        let located: Vec<Located> = findings.iter().filter_map(Finding::located).cloned().collect();
        let outlines = clock.time("segment", || engines.segmenter.segment(volume, &located, progress))?;
        found = account(volume, &findings, outlines);
        if found.masks.is_empty() {
            return Err(PipelineError::Refused(nothing_found(&found.structures)));
        }
    }
    let body = clock.time("body", || volume::body::outline(volume));
    found.doubt(volume, body.as_ref());
    for structure in computed {
        found.add_body(volume, structure, body.as_ref());
    }
    if found.masks.is_empty() {
        return Err(PipelineError::Refused(nothing_found(&found.structures)));
    }
    Ok(found)
}

impl Found {
    /// Brings what was outlined on an even stack back onto the slices that came, and marks what reaches across a lost slice.
    fn onto_slices(self, series: &Series) -> Result<Self, PipelineError> {
        let Some(uneven) = &series.uneven else { return Ok(self) };
        let mut found = Self {
            structures: self.structures,
            ..Self::default()
        };
        for (mask, mut measure) in self.masks.iter().zip(self.measures) {
            let report = found.structures.iter_mut().find(|s| s.name == mask.structure.name);
            let Some(mask) = mask::onto_slices(mask, uneven) else {
                if let Some(report) = report {
                    let reason = "what was outlined lies between two slices".to_owned();
                    *report = StructureReport::absent(mask.structure, vec![reason]);
                }
                continue;
            };
            let shown: BTreeSet<usize> = mask.slices().collect();
            let lost = uneven
                .gaps
                .iter()
                .filter(|(k, _)| shown.contains(k) && shown.contains(&(k + 1)));
            let reasons: Vec<String> = lost.map(|(_, gap)| gap.clone()).collect();
            if let Some(report) = report.filter(|_| !reasons.is_empty()) {
                report.verdict = Verdict::LowConfidence;
                report.reasons.extend(reasons.iter().cloned());
            }
            measure.remarks.extend(reasons);
            found.masks.push(mask);
            found.measures.push(measure);
        }
        match found.masks.is_empty() {
            true => Err(PipelineError::Refused(nothing_found(&found.structures))),
            false => Ok(found),
        }
    }

    /// Lowers the confidence of what lies where it can not be, and says why.
    fn doubt(&mut self, volume: &Volume, body: Option<&Body>) {
        let doubts = plausible::places(volume, &self.masks, body);
        for ((mask, measure), doubts) in self.masks.iter().zip(&mut self.measures).zip(doubts) {
            let report = self.structures.iter_mut().find(|s| s.name == mask.structure.name);
            if let Some(report) = report.filter(|_| !doubts.is_empty()) {
                report.verdict = Verdict::LowConfidence;
                report.reasons.extend(doubts.iter().cloned());
                measure.remarks.extend(doubts);
            }
        }
    }

    fn add_body(&mut self, volume: &Volume, structure: &'static Structure, body: Option<&Body>) {
        let mask = body.and_then(|body| Mask::from_full(structure, body.voxels.view()));
        let (Some(body), Some(mask)) = (body, mask) else {
            let reason = "the image shows nothing denser than air".to_owned();
            return self.structures.push(StructureReport::absent(structure, vec![reason]));
        };
        let cut = format!(
            "cut by the field of view on {} of {} slices",
            body.cut_slices, volume.grid.size[2]
        );
        let remarks = if body.cut_slices > 0 { vec![cut] } else { Vec::new() };
        let verdict = if remarks.is_empty() {
            Verdict::Found
        } else {
            Verdict::Truncated
        };
        let measure = measure(volume, &mask, remarks);
        let report = StructureReport::outlined(structure, verdict, &measure, None);
        self.structures.push(report);
        self.measures.push(measure);
        self.masks.push(mask);
    }
}

/// Pairs every wanted structure with what became of it; the masks that go into the results, and their measures.
fn account(volume: &Volume, findings: &[Finding], outlines: Vec<Outline>) -> Found {
    let mut masks = Vec::new();
    let mut measures = Vec::new();
    let mut reports = Vec::new();
    let mut outlines = outlines.into_iter();
    for finding in findings {
        let report = match finding {
            Finding::NotFound { structure, reason } => StructureReport::absent(structure, vec![reason.clone()]),
            Finding::Located(located) => match outlines.next() {
                Some(Outline::Outlined(outlined)) => {
                    let remarks = located.reasons.iter().chain(&outlined.doubt).cloned().collect();
                    let mut measure = measure(volume, &outlined.mask, remarks);
                    let cut = !located.truncated.is_empty();
                    let size = plausible::size(located.structure.name, measure.volume_ml, cut);
                    let doubtful = outlined.doubt.is_some() || size.is_some();
                    measure.remarks.extend(size);
                    let report = StructureReport::present(located, doubtful, &measure);
                    masks.push(outlined.mask);
                    measures.push(measure);
                    report
                }
                Some(Outline::Empty { structure, reason }) => StructureReport::absent(structure, vec![reason]),
                None => StructureReport::absent(located.structure, vec!["the segmenter gave no answer".into()]),
            },
        };
        reports.push(report);
    }
    Found {
        masks,
        measures,
        structures: reports,
    }
}

fn measure(volume: &Volume, mask: &Mask, remarks: Vec<String>) -> Measure {
    let count = mask.voxel_count();
    Measure {
        volume_ml: count as f64 * volume.grid.voxel_volume_ml(),
        mean_hu: mean_hu(volume, mask, count),
        remarks,
    }
}

fn mean_hu(volume: &Volume, mask: &Mask, count: usize) -> f64 {
    let [i0, j0, k0] = mask.offset;
    let (nk, nj, ni) = mask.voxels.dim();
    let block = volume.hu.slice(ndarray::s![k0..k0 + nk, j0..j0 + nj, i0..i0 + ni]);
    let sum: i64 = block
        .iter()
        .zip(&mask.voxels)
        .filter(|(_, inside)| **inside)
        .map(|(hu, _)| i64::from(*hu))
        .sum();
    sum as f64 / count.max(1) as f64
}

fn nothing_found(structures: &[StructureReport]) -> String {
    let why: Vec<String> = structures
        .iter()
        .take(4)
        .map(|s| format!("{}: {}", s.name, s.reasons.join("; ")))
        .collect();
    format!(
        "none of the {} wanted structures is in view ({} …)",
        structures.len(),
        why.join(", ")
    )
}

#[derive(Default)]
struct StageClock {
    stages: Vec<StageTime>,
}

impl StageClock {
    /// Adds to the stage's time when it was timed before.
    fn time<T>(&mut self, stage: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let seconds = start.elapsed().as_secs_f64();
        tracing::debug!(stage, seconds, "stage done");
        match self.stages.iter_mut().find(|before| before.stage == stage) {
            Some(before) => before.seconds += seconds,
            None => self.stages.push(StageTime {
                stage: stage.into(),
                seconds,
            }),
        }
        result
    }
}
