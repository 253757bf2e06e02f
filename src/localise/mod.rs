//! Volume → where each structure is: MedLAM, few-shot localisation by shared body coordinates and feature similarity.
//!
//! One pass of our network over the whole volume gives every voxel a body coordinate and features ([`canonical`]); the published
//! network gives the same patch by patch ([`patches`]); the manifest says which it is. A template's
//! point is then expected where its body coordinate lies ([`coarse`]), recognised nearby by its features ([`fine`]), all points
//! of a volume are aligned together ([`align`], [`search`]), six points make a box ([`boxes`])
//! and its parts along z ([`parts`]), and the doubts are counted
//! ([`verdict`]). A structure outside the field of view is left out with a reason, never invented.

pub mod bank;
pub mod canonical;
pub mod patches;
pub mod coarse;
pub mod fine;
pub mod align;
pub mod search;
pub mod boxes;
pub mod parts;
pub mod verdict;

use crate::geometry::Box3;
use crate::inference::model::Manifest;
use crate::inference::runtime::{InferenceError, Runtime, Session};
use crate::localise::align::Alignment;
pub use crate::localise::bank::Bank;
use crate::localise::canonical::{Canonical, Observation};
use crate::localise::patches::Patches;
use crate::localise::search::{Search, Steps};
use crate::localise::verdict::Thresholds;
use crate::progress::{Progress, Silent};
use crate::structure::Structure;
use crate::volume::Volume;

/// Bounds of a structure within one part along z, patient millimetres (LPS).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Section {
    pub z_mm: [f64; 2],
    pub y_mm: [f64; 2],
    pub x_mm: [f64; 2],
}

/// A face of the located box that lies outside the field of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Face {
    XMin,
    XMax,
    YMin,
    YMax,
    ZMin,
    ZMax,
}

impl Face {
    /// In the order of their numbers.
    pub const ALL: [Self; 6] = [Self::XMin, Self::XMax, Self::YMin, Self::YMax, Self::ZMin, Self::ZMax];

    /// 0, 1, 2 for x, y, z.
    pub fn axis(self) -> usize {
        self as usize / 2
    }
    pub fn is_max(self) -> bool {
        self as usize % 2 == 1
    }
    /// The lower and the upper face of an axis.
    pub fn of_axis(axis: usize) -> [Self; 2] {
        [Self::ALL[2 * axis], Self::ALL[2 * axis + 1]]
    }
}

/// A structure that is in view, with its box in patient millimetres.
#[derive(Clone, Debug)]
pub struct Located {
    pub structure: &'static Structure,
    /// Clipped to the volume.
    pub bounds: Box3,
    /// Parts along z, ascending (SPL); empty when the templates carry none.
    pub sections: Vec<Section>,
    /// Faces cut by the field of view.
    pub truncated: Vec<Face>,
    /// 0 to 1; below the model's threshold the result is marked low confidence.
    pub confidence: f32,
    pub low_confidence: bool,
    /// Human-readable reasons for low confidence or truncation.
    pub reasons: Vec<String>,
}

/// What was found of one wanted structure.
#[derive(Clone, Debug)]
pub enum Finding {
    Located(Located),
    NotFound {
        structure: &'static Structure,
        reason: String,
    },
}

impl Finding {
    pub fn structure(&self) -> &'static Structure {
        match self {
            Self::Located(located) => located.structure,
            Self::NotFound { structure, .. } => structure,
        }
    }
    pub fn located(&self) -> Option<&Located> {
        match self {
            Self::Located(located) => Some(located),
            Self::NotFound { .. } => None,
        }
    }
}

/// The localisation network with its template bank, resident.
pub struct Localiser {
    pub manifest: Manifest,
    pub bank: Bank,
    pub session: Session,
    thresholds: Thresholds,
    view: View,
}

/// How the network is shown a volume: the families of localisers.
enum View {
    /// `dense`: all at once.
    Whole,
    /// `patch`: the published network.
    Patches(Patches),
}

impl View {
    fn of(manifest: &Manifest) -> Result<Self, InferenceError> {
        match (manifest.kind.as_str(), manifest.family.as_str()) {
            ("localiser", "dense") => Ok(Self::Whole),
            ("localiser", "patch") => Patches::of(manifest).map(Self::Patches),
            ("localiser", other) => Err(manifest.refuse(format!(
                "no localiser of family `{other}` is known; this version runs `dense` and `patch`"
            ))),
            (other, _) => Err(manifest.refuse(format!("it is a {other}, not a localiser; see [models] localiser"))),
        }
    }

    fn input(&self) -> &'static str {
        match self {
            Self::Whole => "volume",
            Self::Patches(_) => "patch",
        }
    }
}

impl Localiser {
    /// Refuses a model whose checksum is not its manifest's, one of another kind or family, and a bank that another model made.
    pub fn load(runtime: &Runtime, manifest: Manifest, bank: Bank) -> Result<Self, InferenceError> {
        if !bank.templates.is_empty() {
            bank.check_model(&manifest.sha256)?;
        }
        let thresholds = match manifest.raw.get("verdict") {
            Some(table) => table
                .clone()
                .try_into()
                .map_err(|e: toml::de::Error| InferenceError::Model {
                    model: manifest.name.clone(),
                    problem: format!("[verdict] in its manifest: {}", e.message()),
                })?,
            None => Thresholds::default(),
        };
        let view = View::of(&manifest)?;
        let session = runtime.session(&manifest.name, &manifest.load_verified()?, Vec::new())?;
        session.require(&[view.input()], &["position", "coarse", "fine"])?;
        Ok(Self {
            manifest,
            bank,
            session,
            thresholds,
            view,
        })
    }

    /// `[verdict]` of the manifest, or the defaults.
    pub fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// What the network says of the whole volume.
    pub fn observe(&mut self, volume: &Volume) -> Result<Observation, InferenceError> {
        self.observe_watched(volume, &Silent)
    }

    /// The same, minutes for a patch network on a processor.
    fn observe_watched(&mut self, volume: &Volume, progress: &dyn Progress) -> Result<Observation, InferenceError> {
        match &self.view {
            View::Whole => Canonical::of(volume).observe(&mut self.session),
            View::Patches(patches) => patches.observe(volume, &mut self.session, progress),
        }
    }

    /// Looks for each wanted structure. Deterministic, and what it says of one structure does not depend on the others wanted.
    pub fn locate(
        &mut self,
        volume: &Volume,
        wanted: &[&'static Structure],
        progress: &dyn Progress,
    ) -> Result<Vec<Finding>, InferenceError> {
        let observation = self.observe_watched(volume, progress)?;
        let findings = find(&observation, &self.bank, wanted, &self.thresholds, progress);
        findings.ok_or(InferenceError::Cancelled)
    }
}

/// What an observed volume shows of the wanted structures; `None` when cancelled.
pub fn find(
    observation: &Observation,
    bank: &Bank,
    wanted: &[&'static Structure],
    thresholds: &Thresholds,
    progress: &dyn Progress,
) -> Option<Vec<Finding>> {
    let (searches, alignment) = search::search(observation, bank, Steps::All, progress)?;
    Some(judge(observation, &searches, &alignment, wanted, thresholds))
}

/// The same from a search that was made already.
pub fn judge(
    observation: &Observation,
    searches: &[Search<'_>],
    alignment: &Alignment,
    wanted: &[&'static Structure],
    thresholds: &Thresholds,
) -> Vec<Finding> {
    let finding = |structure: &'static Structure| {
        let not_found = |reason: String| Finding::NotFound { structure, reason };
        let Some(search) = searches.iter().find(|s| s.structure == structure) else {
            return not_found("no template shows it".into());
        };
        let bounds = &observation.bounds;
        let Some(framed) = boxes::frame(search, alignment, bounds) else {
            return not_found("the templates do not bound it, or its faces crossed".into());
        };
        if let Some(reason) = verdict::out_of_view(search, &framed, bounds, thresholds) {
            return not_found(reason);
        }
        let verdict::Verdict { confidence, mut doubts } = verdict::judge(search, &framed, bounds, thresholds);
        if confidence < thresholds.not_found {
            return not_found(format!("not recognised: {}", doubts.join("; ")));
        }
        if !framed.truncated.is_empty() {
            let share = 100.0 * framed.shown.iter().product::<f64>();
            doubts.push(format!("cut by the field of view, about {share:.0} % of it is shown"));
        }
        let sections = parts::sections(search, &framed, alignment, observation);
        Finding::Located(Located {
            structure,
            bounds: parts::fit_to_sections(&framed, &sections),
            sections,
            truncated: framed.truncated,
            confidence: confidence as f32,
            low_confidence: confidence < thresholds.low_confidence,
            reasons: doubts,
        })
    };
    wanted.iter().map(|s| finding(s)).collect()
}
