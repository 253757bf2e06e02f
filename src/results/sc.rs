//! The contact sheet as Secondary Capture (PS3.3 A.8.1): one RGB image of 8 bits, uncompressed, which the oldest viewer opens.
//!
//! Its modality is OT, not CT: planning systems would offer a CT image for planning. Burned In Annotation (C.7.6.1.1) asks
//! whether pixels tell the patient and the date; ours hold structure names, volumes and letters of direction, so it is NO.

use crate::results::common::{self, Draft};
use crate::results::dataset::Value;
use crate::results::origin::Origin;
use crate::results::picture::Sheet;
use crate::results::{ResultError, ResultObject, Source, reference};
use dicom::core::VR;
use dicom::dictionary_std::tags;

pub(crate) const SECONDARY_CAPTURE_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.7";
const KIND: common::Kind = common::Kind {
    name: "sc",
    sop_class_uid: SECONDARY_CAPTURE_STORAGE,
    modality: "OT",
    series_number_offset: 94,
};

/// Writes the contact sheet of the run.
pub fn write(source: &Source<'_>) -> Result<ResultObject, ResultError> {
    common::check_masks(source)?;
    let origin = Origin::of(source)?.nowhere();
    let mut draft = common::begin_at(&origin, &KIND)?;
    let description = common::series_description("Picture", source.identity.revision);
    draft.data.text(tags::SERIES_DESCRIPTION, description);
    let said =
        "Contact sheet of structures outlined by AI, not reviewed by a physician; not for diagnosis or measurement";
    put_picture(&mut draft, &origin, source.sheet, said)?;
    let sources = reference::of_series(source.series)
        .iter()
        .map(common::source_image)
        .collect();
    draft.data.items(tags::SOURCE_IMAGE_SEQUENCE, sources);
    draft.finish(&KIND, &origin)
}

/// SC Equipment, General Image, Image Pixel and SC Image.
pub(crate) fn put_picture(
    draft: &mut Draft,
    origin: &Origin<'_>,
    sheet: &Sheet,
    derivation: &str,
) -> Result<(), ResultError> {
    let (width, height) = (sheet.width, sheet.height);
    let size = u16::try_from(width).ok().zip(u16::try_from(height).ok());
    let Some((columns, rows)) = size.filter(|_| width * height * 3 == sheet.pixels.len() && width * height > 0) else {
        let bytes = sheet.pixels.len();
        return Err(ResultError::Content(format!(
            "a picture of {width} x {height} pixels with {bytes} bytes is none"
        )));
    };
    let identity = origin.identity;
    let data = &mut draft.data;
    data.text(tags::CONVERSION_TYPE, "WSD");
    data.text(tags::IMAGE_TYPE, "DERIVED\\SECONDARY");
    data.text(tags::CONTENT_DATE, &identity.content_date);
    data.text(tags::CONTENT_TIME, &identity.content_time);
    data.text(tags::DATE_OF_SECONDARY_CAPTURE, &identity.content_date);
    data.text(tags::TIME_OF_SECONDARY_CAPTURE, &identity.content_time);
    data.text(tags::PATIENT_ORIENTATION, "");
    // Type 2C, and a picture of many structures has no side.
    data.text(tags::LATERALITY, "");
    data.text(tags::BURNED_IN_ANNOTATION, "NO");
    data.text(tags::LOSSY_IMAGE_COMPRESSION, "00");
    data.text(tags::DERIVATION_DESCRIPTION, derivation);
    data.text(tags::PHOTOMETRIC_INTERPRETATION, "RGB");
    data.shorts(tags::SAMPLES_PER_PIXEL, &[3]);
    data.shorts(tags::PLANAR_CONFIGURATION, &[0]);
    data.shorts(tags::ROWS, &[rows]);
    data.shorts(tags::COLUMNS, &[columns]);
    data.shorts(tags::BITS_ALLOCATED, &[8]);
    data.shorts(tags::BITS_STORED, &[8]);
    data.shorts(tags::HIGH_BIT, &[7]);
    data.shorts(tags::PIXEL_REPRESENTATION, &[0]);
    data.insert(tags::PIXEL_DATA, Value::Bytes(VR::OB, sheet.pixels.clone()));
    Ok(())
}
