//! Located boxes → masks: MedSAM and LiteMedSAM, box-prompted, slice by slice.

use crate::inference::model::Manifest;
use crate::inference::runtime::{InferenceError, Runtime, Session};
use crate::localise::Located;
use crate::mask::Mask;
use crate::progress::Progress;
use crate::volume::Volume;

/// The box-prompted segmentation network, resident: image encoder and mask decoder.
pub struct Segmenter {
    pub manifest: Manifest,
    pub encoder: Session,
    pub decoder: Session,
}

/// A mask with what the segmenter thinks of it.
#[derive(Clone, Debug)]
pub struct Outlined {
    pub mask: Mask,
    /// Mean of the decoder's own IoU estimate over the slices used.
    pub predicted_iou: f32,
}

/// What became of one located structure.
pub enum Outline {
    Outlined(Outlined),
    /// The network outlined nothing there.
    Empty {
        structure: &'static crate::structure::Structure,
        reason: String,
    },
}

impl Segmenter {
    pub fn load(runtime: &Runtime, manifest: Manifest) -> Result<Self, InferenceError> {
        let _ = (runtime, manifest);
        todo!()
    }
    /// Outlines every located structure on the stored grid. Each slice is encoded once per window for all structures; boxes of
    /// a slice share one decoder call; where structures overlap the higher logit keeps the voxel.
    pub fn segment(
        &mut self,
        volume: &Volume,
        located: &[Located],
        progress: &dyn Progress,
    ) -> Result<Vec<Outline>, InferenceError> {
        let _ = (volume, located, progress);
        todo!()
    }
}
