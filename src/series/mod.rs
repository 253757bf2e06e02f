//! Instances → one closed, ordered, eligible series, or a [`Rejection`] that names the slice and the number.
//!
//! Everything is decided by the geometry attributes of PS3.3 C.7.6.2. Slice Thickness, Instance Number and Patient Position
//! order nothing, because scanners and archives set them as they please.

mod rejection;
mod split;
mod stack;

pub use crate::series::rejection::{Rejection, SliceName};

use crate::dicom::frames::MULTI_FRAME_CT;
use crate::dicom::header::Instance;
use crate::dicom::uid::Uid;
use crate::geometry::{Grid, cross, dot, norm, sub};
use crate::series::stack::{
    Slice, distinct_positions, even_grid, grid_of, on_one_line, one_orientation, ordered, same_frame_and_matrix, steps,
};
use std::collections::BTreeSet;

/// What a protocol asks of a series before it is worth computing on.
#[derive(Clone, Debug)]
pub struct Requirements {
    pub min_slices: usize,
    pub min_extent_mm: f64,
}

/// The slices of one volume, ordered from grid k = 0 upwards, duplicates and scouts removed.
#[derive(Clone, Debug)]
pub struct Series {
    pub study_instance_uid: Uid,
    pub series_instance_uid: Uid,
    pub frame_of_reference_uid: Uid,
    /// `slices[k]` is the slice at grid index k. The SEG and RTSTRUCT copy their plane geometry from here.
    pub slices: Vec<Instance>,
    /// Directions are Image Orientation's; along k the direction from the first to the last slice, so that a tilted stack stays true.
    /// Its k counts slices: where `uneven` is set, its step is only their mean.
    pub grid: Grid,
    /// Set when the slices do not lie evenly.
    pub uneven: Option<Uneven>,
    /// Instances that were left out, with the reason (localizer, exact duplicate, …).
    pub set_aside: Vec<(Uid, String)>,
    /// What a person should know of how the series was taken: which stack of several, and how slices lie that do not lie evenly.
    pub remarks: Vec<String>,
}

/// How a stack of uneven spacing is computed on: an even one is interpolated, and what was found there is brought back.
#[derive(Clone, Debug, PartialEq)]
pub struct Uneven {
    /// From the first slice to the last, along the same line.
    pub grid: Grid,
    /// Where slice k lies on it, counted in its own steps; ascending.
    pub at: Vec<f64>,
    /// Steps much wider than usual, where slices seem to be lost: the slice before each, and what to say of it.
    pub gaps: Vec<(usize, String)>,
}

/// How whole a series looks while more of it may still come.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Slices that form the stack; all instances when they form none.
    pub slices: usize,
    /// 0 when they form no stack.
    pub extent_mm: f64,
    /// The instances at hand form one even stack without a gap.
    pub gap_free: bool,
    /// `gap_free`, and the protocol's requirements are met.
    pub sufficient: bool,
    pub why: String,
}

const CT_IMAGE_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.2";
/// Image Type values of pictures that are no slices. GE writes SCREEN SAVE, Siemens protocol pages CT_SOM5 PROT and the like.
const NOT_SLICES: &[&str] = &[
    "LOCALIZER",
    "MIP",
    "MINIP",
    "PROJECTION IMAGE",
    "MAX_IP",
    "MIN_IP",
    "MEAN_IP",
    "MEDIAN_IP",
    "CURVED_MPR",
    "VOLUME_RENDER",
    "SURFACE_RENDER",
    // Maps of blood flow and of energies: their values are no Hounsfield units of tissue.
    "PERFUSION",
    "MATERIAL_FRACTION",
    "SCREEN SAVE",
    "DOSE",
    "DOSE_INFO",
    "CT_SOM5 PROT",
    "CT_SOM7 PROT",
];
const HOUNSFIELD: &[&str] = &["", "HU", "HU_MOD", "US"];
const MAX_OFF_AXIAL_DEG: f64 = 45.0;
/// Gantries tilt by up to 30 degrees.
const MAX_TILT_DEG: f64 = 30.5;

/// Orders and checks the instances of one series instance UID. Independent of their order of arrival.
pub fn assemble(instances: Vec<Instance>, requirements: &Requirements) -> Result<Series, Rejection> {
    let stack = Stack::arrange(&instances)?;
    stack.satisfy(requirements)?;
    let first = stack.slices[0].instance;
    let frame_of_reference_uid = first
        .frame_of_reference_uid
        .clone()
        .ok_or_else(|| missing(first, "FrameOfReferenceUID"))?;
    Ok(Series {
        study_instance_uid: first.study_instance_uid.clone(),
        series_instance_uid: first.series_instance_uid.clone(),
        frame_of_reference_uid,
        slices: stack.slices.iter().map(|slice| slice.instance.clone()).collect(),
        grid: stack.grid,
        uneven: stack.uneven,
        remarks: stack.remarks,
        set_aside: stack
            .set_aside
            .into_iter()
            .map(|(instance, why)| {
                let frame = instance.frame_number.map(|number| format!("frame {number}: "));
                (instance.sop_instance_uid.clone(), frame.unwrap_or_default() + &why)
            })
            .collect(),
    })
}

/// What [`assemble`] would say now, without making the series. Cheap: headers only, n log n.
pub fn evidence(instances: &[Instance], requirements: &Requirements) -> Evidence {
    match Stack::arrange(instances) {
        Ok(stack) => {
            let short = stack.satisfy(requirements).err();
            let why = match &short {
                Some(rejection) => rejection.to_string(),
                None => format!(
                    "an even stack of {} slices over {:.1} mm",
                    stack.slices.len(),
                    stack.extent_mm
                ),
            };
            let (slices, extent_mm) = (stack.slices.len(), stack.extent_mm);
            let gap = stack.gap();
            Evidence {
                slices,
                extent_mm,
                gap_free: gap.is_none(),
                sufficient: short.is_none() && gap.is_none(),
                why: gap.unwrap_or(why),
            }
        }
        Err(rejection) => Evidence {
            slices: instances.len(),
            extent_mm: 0.0,
            gap_free: false,
            sufficient: false,
            why: rejection.to_string(),
        },
    }
}

/// What is left out, and why.
type SetAside<'a> = Vec<(&'a Instance, String)>;

struct Stack<'a> {
    slices: Vec<Slice<'a>>,
    grid: Grid,
    uneven: Option<Uneven>,
    extent_mm: f64,
    set_aside: SetAside<'a>,
    remarks: Vec<String>,
}

impl<'a> Stack<'a> {
    fn arrange(instances: &'a [Instance]) -> Result<Self, Rejection> {
        let mut set_aside = Vec::new();
        let slices = usable(instances, &mut set_aside)?;
        let mut aside = Vec::new();
        let stack = match Self::of_one(slices.clone(), &mut aside) {
            Err(rejection) if rejection.is_mixture() => split::largest(&slices, &mut set_aside, rejection),
            other => {
                set_aside.append(&mut aside);
                other
            }
        };
        Ok(Self { set_aside, ..stack? })
    }

    /// The stack that slices form which are taken to be of one.
    fn of_one(slices: Vec<&'a Instance>, set_aside: &mut SetAside<'a>) -> Result<Self, Rejection> {
        let (slices, [row, column]) = one_orientation(slices, set_aside)?;
        same_frame_and_matrix(&slices)?;
        let normal = cross(row, column);
        let angle_deg = normal[2].abs().clamp(0.0, 1.0).acos().to_degrees();
        if angle_deg > MAX_OFF_AXIAL_DEG {
            return Err(Rejection::NotAxial {
                angle_deg,
                limit_deg: MAX_OFF_AXIAL_DEG,
            });
        }
        let slices = distinct_positions(ordered(&slices, normal)?, set_aside)?;
        let steps = steps(&slices)?;
        let (first, last) = (&slices[0], &slices[slices.len() - 1]);
        let way = sub(last.position, first.position);
        let length = norm(way);
        let step = way.map(|c| c / length);
        on_one_line(&slices, step, length, steps.even)?;
        let tilt_deg = dot(step, normal).clamp(-1.0, 1.0).acos().to_degrees();
        if tilt_deg > MAX_TILT_DEG {
            return Err(Rejection::Tilt {
                tilt_deg,
                limit_deg: MAX_TILT_DEG.floor(),
            });
        }
        let extent_mm = last.along_mm - first.along_mm + steps.usual_mm;
        let grid = grid_of(
            first,
            [row, column, step],
            length / (slices.len() - 1) as f64,
            slices.len(),
        )?;
        let mut remarks = Vec::new();
        let uneven = if steps.even {
            None
        } else {
            let even = even_grid(&slices, &grid, steps)?;
            remarks.push(even.describe(&slices));
            remarks.extend(even.gaps.iter().map(|(_, gap)| gap.clone()));
            Some(even)
        };
        Ok(Self {
            slices,
            grid,
            uneven,
            extent_mm,
            set_aside: Vec::new(),
            remarks,
        })
    }

    fn gap(&self) -> Option<String> {
        Some(self.uneven.as_ref()?.gaps.first()?.1.clone())
    }

    fn satisfy(&self, requirements: &Requirements) -> Result<(), Rejection> {
        let (count, min) = (self.slices.len(), requirements.min_slices);
        if count < min {
            return Err(Rejection::TooFewSlices { count, min });
        }
        if self.extent_mm < requirements.min_extent_mm {
            return Err(Rejection::TooShort {
                extent_mm: self.extent_mm,
                min_mm: requirements.min_extent_mm,
            });
        }
        Ok(())
    }
}

impl Series {
    /// The first place where slices seem to be lost, in words.
    pub fn gap(&self) -> Option<&str> {
        Some(&self.uneven.as_ref()?.gaps.first()?.1)
    }
}

impl Uneven {
    /// Slices at heights `at` in even steps of 1 mm, for tests.
    #[cfg(test)]
    pub(crate) fn at_steps(at: &[f64], size: [usize; 3]) -> Self {
        Self {
            grid: Grid {
                origin: crate::geometry::PatientPoint::new(0.0, 0.0, 0.0),
                directions: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
                spacing_mm: [1.0; 3],
                size,
            },
            at: at.to_vec(),
            gaps: Vec::new(),
        }
    }

    fn describe(&self, slices: &[Slice<'_>]) -> String {
        let steps = slices.windows(2).map(|pair| pair[1].along_mm - pair[0].along_mm);
        let (least, most) = steps.fold((f64::INFINITY, 0.0f64), |(least, most), mm| {
            (least.min(mm), most.max(mm))
        });
        format!(
            "the slices lie {least:.2} to {most:.2} mm apart: organs were found on an even stack of {} slices \
             interpolated between them, and outlined on the slices themselves",
            self.grid.size[2]
        )
    }
}

fn missing(instance: &Instance, keyword: &'static str) -> Rejection {
    Rejection::MissingAttribute {
        slice: SliceName::of(instance),
        keyword,
    }
}

/// The CT slices among the instances, in an order that does not depend on arrival.
fn usable<'a>(instances: &'a [Instance], set_aside: &mut SetAside<'a>) -> Result<Vec<&'a Instance>, Rejection> {
    let mut all: Vec<&Instance> = instances.iter().collect();
    all.sort_by_key(|i| (&i.sop_instance_uid, i.frame_number, &i.path));
    let first = *all.first().ok_or(Rejection::Empty)?;
    for other in &all {
        one_identity(first, other)?;
    }
    let mut seen = BTreeSet::new();
    let mut slices = Vec::new();
    for instance in all {
        match no_slice(instance) {
            Some(why) => set_aside.push((instance, why)),
            None if !seen.insert((&instance.sop_instance_uid, instance.frame_number)) => {
                set_aside.push((instance, "came more than once".into()))
            }
            None => slices.push(instance),
        }
    }
    if slices.is_empty() {
        let (instance, why) = &set_aside[0];
        let example = format!("{}: {why}", SliceName::of(instance));
        return Err(Rejection::NothingUsable {
            count: set_aside.len(),
            example,
        });
    }
    for instance in &slices {
        complete(instance)?;
    }
    Ok(slices)
}

fn one_identity(first: &Instance, other: &Instance) -> Result<(), Rejection> {
    if first.series_instance_uid != other.series_instance_uid {
        return Err(Rejection::SeveralSeries(
            first.series_instance_uid.clone(),
            other.series_instance_uid.clone(),
        ));
    }
    if first.study_instance_uid != other.study_instance_uid {
        return Err(Rejection::SeveralStudies(
            first.study_instance_uid.clone(),
            other.study_instance_uid.clone(),
        ));
    }
    if first.patient_id != other.patient_id {
        return Err(Rejection::SeveralPatients {
            first: SliceName::of(first),
            second: SliceName::of(other),
        });
    }
    Ok(())
}

fn no_slice(instance: &Instance) -> Option<String> {
    let class = instance.sop_class_uid.as_str();
    if class != CT_IMAGE_STORAGE && !MULTI_FRAME_CT.contains(&class) {
        return Some(format!("its SOP class {class} is not CT Image Storage"));
    }
    if instance.modality != "CT" {
        return Some(format!("its modality is {:?}, not CT", instance.modality));
    }
    if let Some(kind) = instance
        .image_type
        .iter()
        .find(|kind| NOT_SLICES.contains(&kind.as_str()))
    {
        return Some(format!("its Image Type says {kind}"));
    }
    (instance.samples_per_pixel != 1).then(|| "it is a colour picture".into())
}

/// Checks what every slice must say for itself.
fn complete(instance: &Instance) -> Result<(), Rejection> {
    let several = instance.number_of_frames > 1 || MULTI_FRAME_CT.contains(&instance.sop_class_uid.as_str());
    if several && instance.frame_number.is_none() {
        let slice = SliceName::of(instance);
        return Err(Rejection::MultiFrame {
            slice,
            frames: instance.number_of_frames,
        });
    }
    let spacing_fine = instance
        .pixel_spacing_mm
        .is_some_and(|spacing| spacing.iter().all(|mm| *mm > 0.0));
    let required = [
        (instance.frame_of_reference_uid.is_some(), "FrameOfReferenceUID"),
        (instance.image_position.is_some(), "ImagePositionPatient"),
        (instance.image_orientation.is_some(), "ImageOrientationPatient"),
        (spacing_fine, "PixelSpacing"),
        (instance.rows > 0, "Rows"),
        (instance.columns > 0, "Columns"),
        (instance.rescale_slope.is_some_and(|slope| slope != 0.0), "RescaleSlope"),
        (instance.rescale_intercept.is_some(), "RescaleIntercept"),
    ];
    if let Some((_, keyword)) = required.into_iter().find(|(there, _)| !there) {
        return Err(missing(instance, keyword));
    }
    if !HOUNSFIELD.contains(&instance.rescale_type.as_str()) {
        let rescale_type = format!("{:?}", instance.rescale_type);
        return Err(Rejection::NotHounsfield {
            slice: SliceName::of(instance),
            rescale_type,
        });
    }
    Ok(())
}
