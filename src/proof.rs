//! Placement proof: what was written is read back and held against what was meant, before anything of it is kept.
//!
//! The reader is [`crate::labels`], which shares no code with the writers' geometry: the one duplicate we want. A SEG must give
//! back every voxel; an RTSTRUCT, whose contours a reader fills by its own rule, all but a thousandth of them. A mismatch is a bug
//! of ours that would misplace a contour, so it ends the job: nothing of it is kept or sent.

use crate::labels::{self, LabelsError, Moments, Placer, Region};
use crate::mask::{self, Block, Mask};
use crate::results::{self, Proven, ResultObject};
use crate::series::Series;
use serde::{Deserialize, Serialize};

/// Least Dice coefficient of a structure written as contours.
const MIN_DICE: f64 = 0.999;
/// How far the volume of a structure written as contours may be from the mask's.
const MAX_VOLUME_ERROR: f64 = 0.005;
/// How far its centre may be.
const MAX_CENTROID_MM: f64 = 0.1;
/// How far a contour may lie from its slice: DS text is rounded to a tenth of a micrometre.
const MAX_OFF_PLANE_MM: f64 = 0.001;

/// One structure of one object, read back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proof {
    /// The object's key, e.g. `rtstruct` or `seg-ohif`.
    pub object: String,
    /// The structure's name.
    pub structure: String,
    pub voxels: usize,
    /// In the mask and not in the object, or the other way round.
    pub unequal_voxels: usize,
    pub dice: f64,
    /// Volume read back ÷ volume of the mask; of contours, what they enclose, not the voxels they become.
    pub volume_ratio: f64,
    /// Distance between both centres of volume, likewise.
    pub centroid_mm: f64,
}

/// The object does not say what was meant. A bug of ours: fail closed, a person must look.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error("placement proof: our own {object} cannot be read back on its series: {cause}; nothing was kept")]
    Unreadable { object: String, cause: LabelsError },
    #[error("placement proof: {object} holds {found} structures instead of {expected}; nothing was kept")]
    Count {
        object: String,
        found: usize,
        expected: usize,
    },
    #[error("placement proof: {object} does not hold {structure} where it was outlined ({problem}); nothing was kept")]
    Misplaced {
        object: String,
        structure: String,
        problem: String,
    },
}

/// Reads an object back and compares it with the masks; nothing for kinds that hold no voxels.
pub fn prove(object: &ResultObject, series: &Series, masks: &[Mask]) -> Result<Vec<Proof>, ProofError> {
    let proven = results::kind(object.kind).map_or(Proven::Nothing, |kind| kind.proven);
    if proven == Proven::Nothing {
        return Ok(Vec::new());
    }
    let unreadable = |cause| ProofError::Unreadable {
        object: object.key.clone(),
        cause,
    };
    let labels = labels::read(&object.part10).map_err(unreadable)?;
    if labels.regions.len() != masks.len() {
        return Err(ProofError::Count {
            object: object.key.clone(),
            found: labels.regions.len(),
            expected: masks.len(),
        });
    }
    let placer = labels.on(series).map_err(unreadable)?;
    let of_mask = |(mask, region): (&Mask, &Region)| one(object, proven, series, &placer, mask, region);
    masks.iter().zip(&labels.regions).map(of_mask).collect()
}

fn one(
    object: &ResultObject,
    proven: Proven,
    series: &Series,
    placer: &Placer<'_>,
    mask: &Mask,
    region: &Region,
) -> Result<Proof, ProofError> {
    let misplaced = |problem: String| ProofError::Misplaced {
        object: object.key.clone(),
        structure: mask.structure.name.into(),
        problem,
    };
    let placed = placer.place(region).map_err(|e| misplaced(e.to_string()))?;
    let proof = Proof {
        object: object.key.clone(),
        structure: mask.structure.name.into(),
        ..compare(mask, placed.block.as_ref(), placed.moments, series)
    };
    let exact = proven == Proven::Exactly;
    let wrong = if exact && proof.unequal_voxels > 0 {
        Some(format!("{} of {} voxels differ", proof.unequal_voxels, proof.voxels))
    } else if exact && !placed.exact {
        Some("its pixels do not lie on the pixels of the CT".into())
    } else if proof.dice < MIN_DICE {
        Some(format!("Dice {:.4}, at least {MIN_DICE} is asked", proof.dice))
    } else if (proof.volume_ratio - 1.0).abs() > MAX_VOLUME_ERROR {
        Some(format!(
            "its volume is {:.4} times that of the mask",
            proof.volume_ratio
        ))
    } else if proof.centroid_mm > MAX_CENTROID_MM {
        Some(format!("its centre lies {:.2} mm off", proof.centroid_mm))
    } else if placed.off_plane_mm > MAX_OFF_PLANE_MM {
        Some(format!("it lies {:.3} mm off its slices", placed.off_plane_mm))
    } else {
        None
    };
    wrong.map_or(Ok(proof), |problem| Err(misplaced(problem)))
}

/// Voxel by voxel; object and structure are left to be named.
fn compare(mask: &Mask, block: Option<&Block>, contours: Option<Moments>, series: &Series) -> Proof {
    let voxels = mask.voxel_count();
    let (mut read, mut both) = (0, 0);
    for at in block.into_iter().flat_map(Block::indices) {
        read += 1;
        both += usize::from(mask.contains(at));
    }
    let volume = contours.map_or(read as f64, |moments| moments.volume);
    let centre = contours.map(|moments| moments.centre);
    let centre = centre.or_else(|| mask::centre(block?.indices()));
    let centroid_mm = match (mask::centre(mask.indices()), centre) {
        (Some(a), Some(b)) => series.grid.to_patient(a).distance_mm(series.grid.to_patient(b)),
        _ => f64::MAX,
    };
    Proof {
        object: String::new(),
        structure: String::new(),
        voxels,
        unequal_voxels: voxels + read - 2 * both,
        dice: 2.0 * both as f64 / (voxels + read).max(1) as f64,
        volume_ratio: volume / voxels.max(1) as f64,
        centroid_mm,
    }
}
