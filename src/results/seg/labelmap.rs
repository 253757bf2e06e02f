//! Label Map Segmentation (PS3.3 A.91, Supplement 243): one frame per slice that holds any voxel, a segment number per pixel.
//!
//! Our segmenter gives every voxel to one structure, so its masks fit. Masks that overlap (the body's outline and an organ) do
//! not: such a set is refused, not decided, because a voxel lost in silence is a lost voxel.

use crate::results::seg::frames::{self, Frame};
use crate::results::seg::voxels::{self, Rows};
use crate::results::seg::{self, Encoding, rle};
use crate::results::{ResultError, ResultObject, Source, common, dataset};
use dicom::core::VR;
use dicom::dictionary_std::tags;

/// Writes a label map of all masks, numbered from 1 in their order; 0 is background.
///
/// [`ResultError::Overlap`] when two masks claim the same voxels.
pub fn write(source: &Source<'_>) -> Result<ResultObject, ResultError> {
    common::check_masks(source)?;
    let encoding = Encoding {
        kind: common::Kind {
            name: "labelmap",
            sop_class_uid: "1.2.840.10008.5.1.4.1.1.66.7",
            modality: "SEG",
            series_number_offset: 95,
        },
        name: "LABELMAP",
        bits_allocated: if source.masks.len() <= usize::from(u8::MAX) {
            8
        } else {
            16
        },
        overlap: false,
        transfer_syntax_uid: if source.style.rle {
            dataset::RLE_LOSSLESS
        } else {
            dataset::EXPLICIT_VR_LITTLE_ENDIAN
        },
    };
    let mut used = vec![false; source.series.slices.len()];
    source
        .masks
        .iter()
        .flat_map(|mask| mask.slices())
        .for_each(|k| used[k] = true);
    let frame = |k| Frame { k, mask: None };
    let frames: Vec<Frame> = (0..used.len()).filter(|k| used[*k]).map(frame).collect();
    let mut begun = seg::begin(source, &encoding, frames.len())?;
    frames::append_groups(&mut begun.part10, source, &begun.planes, &frames);
    let mut labels = Labels::new(source, encoding.bits_allocated);
    if source.style.rle {
        append_encapsulated(&mut begun.part10, &mut labels, &frames)?;
    } else {
        append_native(&mut begun.part10, &mut labels, &frames)?;
    }
    labels.check(source)?;
    Ok(seg::finish(begun, source, &encoding))
}

/// The segment numbers of one slice as byte planes; the same memory for every slice.
struct Labels<'a> {
    masks: Vec<Rows<'a>>,
    columns: usize,
    low: Vec<u8>,
    /// Empty with 8 bits.
    high: Vec<u8>,
    /// Pixels that are no background, over all slices painted.
    painted: u64,
    /// Voxels of all masks.
    voxels: u64,
}

impl<'a> Labels<'a> {
    fn new(source: &Source<'a>, bits_allocated: u16) -> Self {
        let [columns, rows, _] = source.series.grid.size;
        let pixels = columns * rows;
        Self {
            masks: source.masks.iter().map(Rows::of).collect(),
            columns,
            low: vec![0; pixels],
            high: vec![0; if bits_allocated > 8 { pixels } else { 0 }],
            painted: 0,
            voxels: source.masks.iter().map(|mask| mask.voxel_count() as u64).sum(),
        }
    }

    fn paint(&mut self, k: usize) {
        self.low.fill(0);
        self.high.fill(0);
        for (n, mask) in self.masks.iter().enumerate() {
            let [low, high] = seg::segment_number(n).to_le_bytes();
            for (j, row) in mask.on(k) {
                let first = j * self.columns + mask.column();
                set(&mut self.low[first..first + row.len()], row, low);
                if !self.high.is_empty() {
                    set(&mut self.high[first..first + row.len()], row, high);
                }
            }
        }
        let painted = match self.high.is_empty() {
            true => self.low.iter().filter(|label| **label != 0).count(),
            false => self
                .low
                .iter()
                .zip(&self.high)
                .filter(|(low, high)| **low | **high != 0)
                .count(),
        };
        self.painted += painted as u64;
    }

    /// Most significant first.
    fn planes(&self) -> Vec<&[u8]> {
        [&self.high[..], &self.low]
            .into_iter()
            .filter(|plane| !plane.is_empty())
            .collect()
    }

    /// Where each voxel became a label of its own, no two masks claimed the same one.
    fn check(&self, source: &Source<'_>) -> Result<(), ResultError> {
        let (voxels, painted) = (self.voxels, self.painted);
        if painted == voxels {
            return Ok(());
        }
        Err(match voxels::overlap(source) {
            Some(overlap) => {
                let [first, second] = overlap.masks.map(|n| source.masks[n].structure.name);
                ResultError::Overlap {
                    first,
                    second,
                    voxels: overlap.voxels,
                }
            }
            None => ResultError::Content(format!("{voxels} voxels became {painted} labels of Pixel Data")),
        })
    }
}

fn set(labels: &mut [u8], row: &[bool], label: u8) {
    for (place, inside) in labels.iter_mut().zip(row) {
        *place = if *inside { label } else { *place };
    }
}

/// Pixel Data without compression: bytes, or words in little endian.
fn append_native(out: &mut Vec<u8>, labels: &mut Labels<'_>, frames: &[Frame]) -> Result<(), ResultError> {
    let bytes = (labels.low.len() + labels.high.len()) as u64 * frames.len() as u64;
    let length = seg::check_length(bytes.next_multiple_of(2), frames.len())?;
    let vr = if labels.high.is_empty() { VR::OB } else { VR::OW };
    dataset::element_header(out, tags::PIXEL_DATA, vr, length);
    let start = out.len();
    out.reserve_exact(length);
    for frame in frames {
        labels.paint(frame.k);
        if labels.high.is_empty() {
            out.extend_from_slice(&labels.low);
        } else {
            out.extend(
                labels
                    .low
                    .iter()
                    .zip(&labels.high)
                    .flat_map(|(low, high)| [*low, *high]),
            );
        }
    }
    out.resize(start + length, 0);
    Ok(())
}

/// Encapsulated Pixel Data (PS3.5 A.4): a Basic Offset Table, then one RLE fragment per frame.
fn append_encapsulated(out: &mut Vec<u8>, labels: &mut Labels<'_>, frames: &[Frame]) -> Result<(), ResultError> {
    dataset::element_header(out, tags::PIXEL_DATA, VR::OB, u32::MAX as usize);
    let table = dataset::open_item(out, dataset::ITEM);
    out.resize(table + 4 * frames.len(), 0);
    dataset::close_sequence(out, table);
    let first = out.len();
    for (n, frame) in frames.iter().enumerate() {
        labels.paint(frame.k);
        // The table's offsets are 32 bits as well.
        let offset = seg::check_length((out.len() - first) as u64, frames.len())? as u32;
        out[table + 4 * n..table + 4 * n + 4].copy_from_slice(&offset.to_le_bytes());
        let start = dataset::open_item(out, dataset::ITEM);
        rle::append_frame(out, &labels.planes(), labels.columns);
        dataset::close_sequence(out, start);
    }
    dataset::open_item(out, dataset::SEQUENCE_DELIMITATION);
    Ok(())
}
