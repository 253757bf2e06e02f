//! Volume → where each structure is: MedLAM, few-shot localisation by shared body coordinates and feature similarity.

use crate::geometry::Box3;
use crate::structure::Structure;

/// Bounds of a structure within one part along z, patient millimetres (LPS).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Section {
    pub z_mm: [f64; 2],
    pub y_mm: [f64; 2],
    pub x_mm: [f64; 2],
}

/// A face of the located box that lies outside the field of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Face {
    XMin,
    XMax,
    YMin,
    YMax,
    ZMin,
    ZMax,
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
    pub fn located(&self) -> Option<&Located> {
        match self {
            Self::Located(located) => Some(located),
            Self::NotFound { .. } => None,
        }
    }
}

use crate::inference::model::Manifest;
use crate::inference::runtime::{InferenceError, Runtime, Session};
use crate::progress::Progress;
use crate::volume::Volume;
use std::path::Path;

/// Template features and points per structure, keyed by the hash of the model that made them. No pixels, no identity.
#[derive(Clone, Debug, Default)]
pub struct Bank {}

impl Bank {
    pub fn read(path: &Path) -> Result<Self, InferenceError> {
        let _ = path;
        todo!()
    }
    /// Names of the structures that at least one template holds.
    pub fn structures(&self) -> Vec<&'static Structure> {
        todo!()
    }
}

/// The localisation network with its template bank, resident.
pub struct Localiser {
    pub manifest: Manifest,
    pub bank: Bank,
    pub session: Session,
}

impl Localiser {
    pub fn load(runtime: &Runtime, manifest: Manifest, bank: Bank) -> Result<Self, InferenceError> {
        let _ = (runtime, manifest, bank);
        todo!()
    }
    /// Looks for each wanted structure. Deterministic.
    pub fn locate(
        &mut self,
        volume: &Volume,
        wanted: &[&'static Structure],
        progress: &dyn Progress,
    ) -> Result<Vec<Finding>, InferenceError> {
        let _ = (volume, wanted, progress);
        todo!()
    }
}
