//! One series in, its result objects out: reads as the clinical story.

use crate::dicom::header::Instance;
use crate::inference::runtime::{Assignment, InferenceError};
use crate::localise::{Finding, Localiser, Located};
use crate::mask::Mask;
use crate::progress::Progress;
use crate::proof::{self, Proof, ProofError};
use crate::results::style::Style;
use crate::results::{self, Identity, Kind, Measure, ModelUsed, ResultError, ResultObject, Source};
use crate::segment::{Outline, Outlined, Segmenter};
use crate::series::{self, Rejection, Requirements, Series};
use crate::structure::Structure;
use crate::volume::{self, Volume, VolumeError};
use serde::{Deserialize, Serialize};
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
    /// Another object says the same: when this one cannot be written, the run goes on without it.
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

/// The facts of a run, for `report.json`, the job row and the tables people read. Holds no patient data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub study_instance_uid: String,
    pub series_instance_uid: String,
    pub slices: usize,
    pub slice_spacing_mm: f64,
    pub structures: Vec<StructureReport>,
    /// Instances of the series that were left out, and why.
    pub set_aside: Vec<(String, String)>,
    /// The placement proof: what was read back of each object.
    #[serde(default)]
    pub proofs: Vec<Proof>,
    /// What else a person should know of the run.
    #[serde(default)]
    pub notes: Vec<String>,
    pub stages: Vec<StageTime>,
    /// Seconds of the run spent inside ONNX Runtime.
    pub runtime_s: f64,
    pub models: Vec<ModelUsed>,
    pub assignments: Vec<Assignment>,
    pub revision: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Found,
    LowConfidence,
    /// Found, and cut by the field of view.
    Truncated,
    NotFound,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StructureReport {
    pub name: String,
    pub roi_name: String,
    pub verdict: Verdict,
    pub volume_ml: Option<f64>,
    pub mean_hu: Option<f64>,
    pub confidence: Option<f32>,
    pub reasons: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageTime {
    pub stage: String,
    pub seconds: f64,
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
    let findings = clock.time("localise", || {
        engines.localiser.locate(&volume, &request.structures, progress)
    })?;
    let located: Vec<Located> = findings.iter().filter_map(Finding::located).cloned().collect();
    let outlines = clock.time("segment", || engines.segmenter.segment(&volume, &located, progress))?;
    let (masks, measures, structures) = account(&volume, &findings, outlines);
    if masks.is_empty() {
        return Err(PipelineError::Refused(nothing_found(&structures)));
    }

    let models = engines.models_used();
    let sheet = clock.time("picture", || results::picture::contact_sheet(&volume, &masks));
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
    let (objects, notes) = clock.time("write", || write(&request.results, &source))?;
    progress.stage("prove", objects.len());
    let proofs = clock.time("prove", || prove(&objects, &series, &masks))?;

    let report = Report {
        study_instance_uid: series.study_instance_uid.to_string(),
        series_instance_uid: series.series_instance_uid.to_string(),
        slices: series.slices.len(),
        slice_spacing_mm: series.grid.spacing_mm[2],
        structures,
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

/// Every wanted object, and a note for each optional one that could not be written.
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
            Err(error) if one.optional => notes.push(format!("no {} was written: {error}", one.kind.name)),
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

/// Pairs every wanted structure with what became of it; the masks that go into the results, and their measures.
fn account(
    volume: &Volume,
    findings: &[Finding],
    outlines: Vec<Outline>,
) -> (Vec<Mask>, Vec<Measure>, Vec<StructureReport>) {
    let mut masks = Vec::new();
    let mut measures = Vec::new();
    let mut reports = Vec::new();
    let mut outlines = outlines.into_iter();
    for finding in findings {
        let report = match finding {
            Finding::NotFound { structure, reason } => StructureReport::absent(structure, vec![reason.clone()]),
            Finding::Located(located) => match outlines.next() {
                Some(Outline::Outlined(outlined)) => {
                    let measure = measure(volume, located, &outlined);
                    let report = StructureReport::present(located, &outlined, &measure);
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
    (masks, measures, reports)
}

impl StructureReport {
    fn absent(structure: &'static Structure, reasons: Vec<String>) -> Self {
        Self {
            name: structure.name.into(),
            roi_name: structure.roi_name.into(),
            verdict: Verdict::NotFound,
            volume_ml: None,
            mean_hu: None,
            confidence: None,
            reasons,
        }
    }

    fn present(located: &Located, outlined: &Outlined, measure: &Measure) -> Self {
        let low = located.low_confidence || outlined.doubt.is_some();
        let verdict = match (low, located.truncated.is_empty()) {
            (true, _) => Verdict::LowConfidence,
            (false, false) => Verdict::Truncated,
            (false, true) => Verdict::Found,
        };
        Self {
            name: located.structure.name.into(),
            roi_name: located.structure.roi_name.into(),
            verdict,
            volume_ml: Some(measure.volume_ml),
            mean_hu: Some(measure.mean_hu),
            confidence: Some(located.confidence),
            reasons: measure.remarks.clone(),
        }
    }
}

fn measure(volume: &Volume, located: &Located, outlined: &Outlined) -> Measure {
    let Outlined { mask, doubt, .. } = outlined;
    let count = mask.voxel_count();
    Measure {
        volume_ml: count as f64 * volume.grid.voxel_volume_ml(),
        mean_hu: mean_hu(volume, mask, count),
        remarks: located.reasons.iter().chain(doubt).cloned().collect(),
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
