//! Multi-frame CT as the slices it holds: what the functional groups (PS3.3 C.7.6.16) say of every frame, and where its pixels are.
//!
//! An Enhanced or Legacy Converted Enhanced CT is a whole series in one object. [`Instance::images`] turns it into one
//! [`Instance`] per frame, so that everything behind it knows slices only.

use crate::dicom::codec;
use crate::dicom::fields::{Fields, HeaderError, SPECIFIC_CHARACTER_SET};
use crate::dicom::header::{Instance, read_fields};
use crate::dicom::scan::{self, ScanError, Tag};
use std::path::Path;

/// Enhanced CT and Legacy Converted Enhanced CT Image Storage (PS3.4 table B.5-1).
pub const MULTI_FRAME_CT: [&str; 2] = ["1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"];

/// Where the frames of encapsulated Pixel Data begin, in 64 bits (PS3.3 C.7.6.3.1.8).
pub const EXTENDED_OFFSET_TABLE: Tag = 0x7FE0_0001;
const SHARED_FUNCTIONAL_GROUPS: Tag = 0x5200_9229;
const PER_FRAME_FUNCTIONAL_GROUPS: Tag = 0x5200_9230;
const CT_IMAGE_FRAME_TYPE: Tag = 0x0018_9329;
const FRAME_CONTENT: Tag = 0x0020_9111;
const PLANE_POSITION: Tag = 0x0020_9113;
const PLANE_ORIENTATION: Tag = 0x0020_9116;
const PIXEL_MEASURES: Tag = 0x0028_9110;
const PIXEL_VALUE_TRANSFORMATION: Tag = 0x0028_9145;
/// What a conversion from single frames found no place for.
const UNASSIGNED_SHARED: Tag = 0x0020_9170;
const UNASSIGNED_PER_FRAME: Tag = 0x0020_9171;

fn wanted(tag: Tag) -> bool {
    [
        SPECIFIC_CHARACTER_SET,
        SHARED_FUNCTIONAL_GROUPS,
        PER_FRAME_FUNCTIONAL_GROUPS,
    ]
    .contains(&tag)
}

/// The functional groups of an object.
struct Groups<'a> {
    shared: Option<Fields<'a>>,
    per_frame: Vec<Fields<'a>>,
}

impl<'a> Groups<'a> {
    fn of(fields: &Fields<'a>) -> Result<Self, HeaderError> {
        Ok(Self {
            shared: fields.item(SHARED_FUNCTIONAL_GROUPS)?,
            per_frame: fields.items(PER_FRAME_FUNCTIONAL_GROUPS)?,
        })
    }

    /// The item of a group: the frame's own, or the one that all frames share.
    fn item(&self, frame: usize, group: Tag) -> Result<Option<Fields<'a>>, HeaderError> {
        match (self.per_frame[frame].item(group)?, &self.shared) {
            (None, Some(shared)) => shared.item(group),
            (own, _) => Ok(own),
        }
    }
}

/// Where one frame lies, in the object's own words (DS), for results that repeat them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaneText {
    pub position: Vec<u8>,
    pub orientation: Vec<u8>,
    pub spacing: Vec<u8>,
    /// Empty when absent.
    pub thickness: Vec<u8>,
}

/// The plane of every frame as the object writes it.
pub fn plane_texts(path: &Path) -> Result<Vec<PlaneText>, HeaderError> {
    read_fields(path, PER_FRAME_FUNCTIONAL_GROUPS, wanted, |fields, _| {
        let groups = Groups::of(fields)?;
        let text = |frame: usize, group: Tag, tag: Tag| {
            let item = groups.item(frame, group)?;
            let value = item.as_ref().and_then(|item| item.element(tag));
            Ok(value.map_or(Vec::new(), |element| element.value.trim_ascii_end().to_vec()))
        };
        let plane = |frame: usize| -> Result<PlaneText, HeaderError> {
            Ok(PlaneText {
                position: text(frame, PLANE_POSITION, 0x0020_0032)?,
                orientation: text(frame, PLANE_ORIENTATION, 0x0020_0037)?,
                spacing: text(frame, PIXEL_MEASURES, 0x0028_0030)?,
                thickness: text(frame, PIXEL_MEASURES, 0x0018_0050)?,
            })
        };
        (0..groups.per_frame.len()).map(plane).collect()
    })
}

impl Instance {
    /// Every image of a file: the object itself, or the frames of a multi-frame one, each with the geometry, rescale and type
    /// that its functional groups give it. An object of several frames that has no such groups comes back whole, because nobody
    /// can say where its frames lie.
    pub fn images(path: &Path) -> Result<Vec<Self>, HeaderError> {
        let whole = Self::read(path)?;
        if whole.number_of_frames <= 1 && !MULTI_FRAME_CT.contains(&whole.sop_class_uid.as_str()) {
            return Ok(vec![whole]);
        }
        read_fields(path, PER_FRAME_FUNCTIONAL_GROUPS, wanted, |fields, _| {
            let groups = Groups::of(fields)?;
            let (described, declared) = (groups.per_frame.len(), whole.number_of_frames);
            if described == 0 {
                return Ok(vec![whole.clone()]);
            }
            if described != declared {
                return Err(HeaderError::Malformed(format!(
                    "its Number of Frames is {declared}, but functional groups describe {described} frames"
                )));
            }
            (0..described).map(|frame| of_frame(&whole, &groups, frame)).collect()
        })
    }
}

fn of_frame(whole: &Instance, groups: &Groups<'_>, frame: usize) -> Result<Instance, HeaderError> {
    let mut image = whole.clone();
    image.frame_number = u32::try_from(frame + 1).ok();
    if let Some(item) = groups.item(frame, PLANE_POSITION)? {
        image.image_position = item.decimals(0x0020_0032);
    }
    if let Some(item) = groups.item(frame, PLANE_ORIENTATION)? {
        image.image_orientation = item.decimals(0x0020_0037);
    }
    if let Some(item) = groups.item(frame, PIXEL_MEASURES)? {
        image.pixel_spacing_mm = item.decimals(0x0028_0030);
        image.slice_thickness_mm = item.decimal(0x0018_0050);
    }
    if let Some(item) = groups.item(frame, PIXEL_VALUE_TRANSFORMATION)? {
        image.rescale_intercept = item.decimal(0x0028_1052);
        image.rescale_slope = item.decimal(0x0028_1053);
        image.rescale_type = item.text(0x0028_1054);
    }
    if let Some(item) = groups.item(frame, CT_IMAGE_FRAME_TYPE)? {
        image.image_type = item
            .text(0x0008_9007)
            .split('\\')
            .map(|v| v.trim().to_owned())
            .collect();
        // MAX_IP, VOLUME_RENDER and the like are pictures of many slices (PS3.3 C.8.16.2.1.4).
        let technique = item.text(0x0008_9207);
        if !matches!(technique.as_str(), "" | "NONE" | "MPR") {
            image.image_type.push(technique);
        }
    }
    let mut put = |keyword, text: String| {
        if !text.is_empty() {
            image.phase.insert(keyword, text);
        }
    };
    if let Some(item) = groups.item(frame, FRAME_CONTENT)? {
        put("StackID", item.text(0x0020_9056));
        put(
            "TemporalPositionIndex",
            item.long(0x0020_9128).map_or(String::new(), |n| n.to_string()),
        );
        image.acquisition_number = item.short(0x0020_9156).map(i64::from).or(image.acquisition_number);
    }
    for group in [UNASSIGNED_SHARED, UNASSIGNED_PER_FRAME] {
        if let Some(item) = groups.item(frame, group)? {
            image.acquisition_number = item.integer(0x0020_0012).or(image.acquisition_number);
            image.instance_number = item.integer(0x0020_0013).or(image.instance_number);
        }
    }
    Ok(image)
}

/// The Extended Offset Table of an object, as [`divide`] wants it.
pub fn extended_offsets<'a>(fields: &Fields<'a>) -> &'a [u8] {
    fields.element(EXTENDED_OFFSET_TABLE).map_or(&[], |table| table.value)
}

/// The fragments of every frame of encapsulated Pixel Data whose value begins at `offset` (PS3.5 A.4). `extended` is the Extended
/// Offset Table (7FE0,0001), empty where there is none.
///
/// One fragment each, all of the only frame, as an offset table says, or, where there is none, up to the end mark that JPEG and its
/// kin close a frame with.
pub fn divide<'a>(data: &'a [u8], offset: usize, count: usize, extended: &[u8]) -> Result<Vec<Vec<&'a [u8]>>, String> {
    let mut fragments = scan::offset_table_and_fragments(data, offset).map_err(|error| match error {
        ScanError::NeedMore => "the file is cut short".to_owned(),
        ScanError::Malformed(problem) => format!("the file is damaged: {problem}"),
    })?;
    let table = fragments.remove(0);
    if fragments.len() == count {
        return Ok(fragments.into_iter().map(|fragment| vec![fragment]).collect());
    }
    if count == 1 {
        return Ok(vec![fragments]);
    }
    let long = extended.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b));
    let short = table
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| u64::from(u32::from_le_bytes(*b)));
    let starts: Vec<u64> = if extended.is_empty() {
        short.collect()
    } else {
        long.collect()
    };
    let mut frames: Vec<Vec<&[u8]>> = Vec::new();
    let (mut at, mut closed) = (0u64, true);
    for fragment in fragments {
        let begins = if starts.is_empty() {
            closed
        } else {
            starts.get(frames.len()) == Some(&at)
        };
        match frames.last_mut() {
            Some(frame) if !begins => frame.push(fragment),
            _ => frames.push(vec![fragment]),
        }
        at += 8 + fragment.len() as u64;
        closed = codec::is_closed(fragment);
    }
    if frames.len() != count {
        let made = frames.len();
        return Err(format!(
            "the fragments of its Pixel Data make {made} frames, not {count}"
        ));
    }
    Ok(frames)
}
