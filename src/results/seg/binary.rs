//! DICOM Segmentation (PS3.3 A.51), BINARY: one frame per structure and slice that holds voxels of it, a bit per pixel.

use crate::results::seg::frames::{self, Frame};
use crate::results::seg::voxels::{self, Rows};
use crate::results::seg::{self, Encoding};
use crate::results::{ResultError, ResultObject, Source, common, dataset};
use dicom::core::VR;
use dicom::dictionary_std::tags;

/// What the functional groups of a frame take at most on real series, bytes.
const GROUPS: usize = 900;

/// Writes a SEG of all masks, numbered from 1 in their order.
pub fn write(source: &Source<'_>) -> Result<ResultObject, ResultError> {
    common::check_masks(source)?;
    let encoding = Encoding {
        kind: common::Kind {
            name: "seg",
            sop_class_uid: "1.2.840.10008.5.1.4.1.1.66.4",
            modality: "SEG",
            series_number_offset: 91,
        },
        name: "BINARY",
        bits_allocated: 1,
        overlap: voxels::overlap(source).is_some(),
        transfer_syntax_uid: dataset::EXPLICIT_VR_LITTLE_ENDIAN,
    };
    let of_mask = |mask: usize| source.masks[mask].slices().map(move |k| Frame { k, mask: Some(mask) });
    let frames: Vec<Frame> = (0..source.masks.len()).flat_map(of_mask).collect();
    let mut begun = seg::begin(source, &encoding, frames.len())?;
    let [columns, rows, _] = source.series.grid.size;
    let pixels = frames.len() * columns * rows / 8;
    begun.part10.reserve_exact(pixels + frames.len() * GROUPS + 64);
    frames::append_groups(&mut begun.part10, source, &begun.planes, &frames);
    append_pixels(&mut begun.part10, source, &frames)?;
    Ok(seg::finish(begun, source, &encoding))
}

/// Pixel Data as one stream of bits, the first pixel in the least significant bit (PS3.5 8.1.1 and annex D); a frame begins where
/// the one before ends, in the middle of a byte if need be. Counts the bits it set against the masks' voxels.
fn append_pixels(out: &mut Vec<u8>, source: &Source<'_>, frames: &[Frame]) -> Result<(), ResultError> {
    let [columns, rows, _] = source.series.grid.size;
    let bits = frames.len() as u64 * (rows * columns) as u64;
    let length = seg::check_length(bits.div_ceil(8).next_multiple_of(2), frames.len())?;
    dataset::element_header(out, tags::PIXEL_DATA, VR::OB, length);
    let start = out.len();
    out.resize(start + length, 0);
    let pixels = &mut out[start..];
    let masks: Vec<Rows<'_>> = source.masks.iter().map(Rows::of).collect();
    for (n, frame) in frames.iter().enumerate() {
        let mask = frame.mask.map(|mask| &masks[mask]).expect("a frame of one mask");
        for (j, row) in mask.on(frame.k) {
            voxels::put_bits(pixels, (n * rows + j) * columns + mask.column(), row);
        }
    }
    let set: u64 = pixels.iter().map(|byte| u64::from(byte.count_ones())).sum();
    let voxels: u64 = source.masks.iter().map(|mask| mask.voxel_count() as u64).sum();
    if set != voxels {
        return Err(ResultError::Content(format!(
            "{voxels} voxels became {set} bits of Pixel Data"
        )));
    }
    Ok(())
}
