//! What a run says of itself.

use crate::inference::runtime::Assignment;
use crate::localise::Located;
use crate::proof::Proof;
use crate::results::{Measure, ModelUsed, ResultObject};
use crate::structure::Structure;
use serde::{Deserialize, Serialize};

/// The facts of a run, for `report.json`, the job row and the tables people read. Holds no patient data.
///
/// `report.json` is this as it stands: what the series was, every wanted structure with its verdict, volume in millilitres, mean
/// HU, confidence and reasons, what was written under which UIDs, which models and which processor made it, and how long each
/// stage took. Fields are only ever added; a reader ignores those it does not know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Name and version of this program.
    #[serde(default)]
    pub software: String,
    pub study_instance_uid: String,
    pub series_instance_uid: String,
    pub slices: usize,
    pub slice_spacing_mm: f64,
    /// One for each that was wanted, found or not.
    pub structures: Vec<StructureReport>,
    /// What was written, to find it in an archive.
    #[serde(default)]
    pub objects: Vec<ObjectReport>,
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
    /// Of the anatomy table, as the configuration writes it.
    pub name: String,
    /// TG-263; a destination profile may write another.
    pub roi_name: String,
    /// SNOMED CT, the same in SEG, RTSTRUCT and SR.
    #[serde(default)]
    pub code: String,
    /// `left`, `right`, or `null` where there is no side.
    #[serde(default)]
    pub side: Option<String>,
    pub verdict: Verdict,
    /// `null`, as the two below, where there is no outline.
    pub volume_ml: Option<f64>,
    pub mean_hu: Option<f64>,
    /// 0 to 1: how well the templates agreed on the place. `null` too for what is computed instead of recognised.
    pub confidence: Option<f32>,
    /// In words why it is absent, doubtful or cut.
    pub reasons: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObjectReport {
    /// `seg`, or with its destination profile `seg-eclipse`; the file is called so too.
    pub kind: String,
    pub sop_class_uid: String,
    pub sop_instance_uid: String,
    pub series_instance_uid: String,
    pub bytes: usize,
}

impl ObjectReport {
    pub(crate) fn of(object: &ResultObject) -> Self {
        Self {
            kind: object.key.clone(),
            sop_class_uid: object.sop_class_uid.to_string(),
            sop_instance_uid: object.sop_instance_uid.to_string(),
            series_instance_uid: object.series_instance_uid.to_string(),
            bytes: object.part10.len(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageTime {
    pub stage: String,
    pub seconds: f64,
}

impl StructureReport {
    pub(crate) fn absent(structure: &'static Structure, reasons: Vec<String>) -> Self {
        Self {
            name: structure.name.into(),
            roi_name: structure.roi_name.into(),
            code: structure.kind.value.into(),
            side: structure.laterality.map(|side| side.meaning.to_lowercase()),
            verdict: Verdict::NotFound,
            volume_ml: None,
            mean_hu: None,
            confidence: None,
            reasons,
        }
    }

    pub(crate) fn present(located: &Located, doubtful: bool, measure: &Measure) -> Self {
        let low = located.low_confidence || doubtful;
        let verdict = match (low, located.truncated.is_empty()) {
            (true, _) => Verdict::LowConfidence,
            (false, false) => Verdict::Truncated,
            (false, true) => Verdict::Found,
        };
        Self::outlined(located.structure, verdict, measure, Some(located.confidence))
    }

    pub(crate) fn outlined(
        structure: &'static Structure,
        verdict: Verdict,
        measure: &Measure,
        confidence: Option<f32>,
    ) -> Self {
        Self {
            verdict,
            volume_ml: Some(measure.volume_ml),
            mean_hu: Some(measure.mean_hu),
            confidence,
            ..Self::absent(structure, measure.remarks.clone())
        }
    }
}
