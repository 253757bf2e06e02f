//! A volume as a CT series on disk, as a scanner would send it: for the demonstration, where the sample CT comes as NIfTI.

use crate::dicom::uid::Uid;
use crate::net::scu::Outgoing;
use crate::volume::Volume;
use dicom::core::{DataElement, PrimitiveValue, Tag, VR};
use dicom::dictionary_std::tags;
use dicom::object::{FileMetaTableBuilder, InMemDicomObject};
use std::path::Path;

const CT_IMAGE_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.2";
const EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";

/// Who the made-up patient is. UIDs derive from `seed`, so that the same sample is the same series every time.
#[derive(Clone, Debug)]
pub struct Label<'a> {
    pub patient_name: &'a str,
    pub patient_id: &'a str,
    pub description: &'a str,
    pub date: &'a str,
    pub seed: &'a str,
}

/// Writes one CT Image Storage instance per slice into `dir` and returns them in slice order.
///
/// # Errors
/// When a file cannot be written.
pub fn write_series(volume: &Volume, label: &Label<'_>, dir: &Path) -> anyhow::Result<Vec<Outgoing>> {
    let common = common_elements(volume, label);
    let mut outgoing = Vec::with_capacity(volume.grid.size[2]);
    for k in 0..volume.grid.size[2] {
        let mut object = common.clone();
        let sop_instance_uid = Uid::derived(&[label.seed, "slice", &k.to_string()]);
        put_slice(&mut object, volume, k, &sop_instance_uid);
        let path = dir.join(format!("{sop_instance_uid}.dcm"));
        let meta = FileMetaTableBuilder::new()
            .transfer_syntax(EXPLICIT_VR_LITTLE_ENDIAN)
            .media_storage_sop_class_uid(CT_IMAGE_STORAGE)
            .media_storage_sop_instance_uid(sop_instance_uid.as_str());
        object.with_meta(meta)?.write_to_file(&path)?;
        outgoing.push(Outgoing {
            sop_class_uid: Uid::parse(CT_IMAGE_STORAGE)?,
            sop_instance_uid,
            transfer_syntax_uid: Uid::parse(EXPLICIT_VR_LITTLE_ENDIAN)?,
            path,
        });
    }
    Ok(outgoing)
}

/// Everything the slices share: patient, study, series, frame of reference, equipment and image pixel modules of the CT
/// Image IOD (PS3.3 A.3).
fn common_elements(volume: &Volume, label: &Label<'_>) -> InMemDicomObject {
    let uid = |role: &str| Uid::derived(&[label.seed, role]).to_string();
    let mut object = InMemDicomObject::new_empty();
    let mut text = |tag: Tag, vr: VR, value: &str| {
        object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    };
    text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 100");
    text(tags::IMAGE_TYPE, VR::CS, "DERIVED\\SECONDARY\\AXIAL");
    text(tags::SOP_CLASS_UID, VR::UI, CT_IMAGE_STORAGE);
    for tag in [
        tags::STUDY_DATE,
        tags::SERIES_DATE,
        tags::CONTENT_DATE,
        tags::ACQUISITION_DATE,
    ] {
        text(tag, VR::DA, label.date);
    }
    for tag in [
        tags::STUDY_TIME,
        tags::SERIES_TIME,
        tags::CONTENT_TIME,
        tags::ACQUISITION_TIME,
    ] {
        text(tag, VR::TM, "120000");
    }
    for (tag, vr) in [
        (tags::ACCESSION_NUMBER, VR::SH),
        (tags::REFERRING_PHYSICIAN_NAME, VR::PN),
        (tags::PATIENT_BIRTH_DATE, VR::DA),
        (tags::PATIENT_SEX, VR::CS),
        (tags::POSITION_REFERENCE_INDICATOR, VR::LO),
        (tags::PATIENT_POSITION, VR::CS),
        (tags::KVP, VR::DS),
    ] {
        text(tag, vr, "");
    }
    text(tags::MODALITY, VR::CS, "CT");
    text(tags::MANUFACTURER, VR::LO, "medlsamd sample");
    text(tags::PATIENT_NAME, VR::PN, label.patient_name);
    text(tags::PATIENT_ID, VR::LO, label.patient_id);
    text(tags::STUDY_DESCRIPTION, VR::LO, label.description);
    text(tags::SERIES_DESCRIPTION, VR::LO, label.description);
    text(tags::STUDY_ID, VR::SH, "1");
    text(tags::SERIES_NUMBER, VR::IS, "1");
    text(tags::ACQUISITION_NUMBER, VR::IS, "1");
    text(tags::STUDY_INSTANCE_UID, VR::UI, &uid("study"));
    text(tags::SERIES_INSTANCE_UID, VR::UI, &uid("series"));
    text(tags::FRAME_OF_REFERENCE_UID, VR::UI, &uid("frame"));
    put_image(&mut object, volume);
    object
}

/// Plane geometry and pixel encoding, the same for all slices.
fn put_image(object: &mut InMemDicomObject, volume: &Volume) {
    let grid = &volume.grid;
    let mut text = |tag: Tag, vr: VR, value: &str| {
        object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    };
    let [row, column, _] = grid.directions;
    text(
        tags::IMAGE_ORIENTATION_PATIENT,
        VR::DS,
        &decimals(row.iter().chain(&column)),
    );
    text(
        tags::PIXEL_SPACING,
        VR::DS,
        &decimals([grid.spacing_mm[1], grid.spacing_mm[0]].iter()),
    );
    text(tags::SLICE_THICKNESS, VR::DS, &decimals([grid.spacing_mm[2]].iter()));
    text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2");
    text(tags::RESCALE_INTERCEPT, VR::DS, "-1024");
    text(tags::RESCALE_SLOPE, VR::DS, "1");
    text(tags::RESCALE_TYPE, VR::LO, "HU");
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, grid.size[1] as u16),
        (tags::COLUMNS, grid.size[0] as u16),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 16),
        (tags::HIGH_BIT, 15),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    }
}

fn put_slice(object: &mut InMemDicomObject, volume: &Volume, k: usize, sop_instance_uid: &Uid) {
    let position = volume.grid.to_patient([0.0, 0.0, k as f64]).to_array();
    // Stored as unsigned with intercept −1024, so air below that is clipped: there is nothing to see there.
    let stored: Vec<u16> = volume
        .hu
        .index_axis(ndarray::Axis(0), k)
        .iter()
        .map(|hu| (i32::from(*hu) + 1024).max(0) as u16)
        .collect();
    object.put(DataElement::new(
        tags::SOP_INSTANCE_UID,
        VR::UI,
        sop_instance_uid.as_str(),
    ));
    object.put(DataElement::new(tags::INSTANCE_NUMBER, VR::IS, (k + 1).to_string()));
    object.put(DataElement::new(
        tags::IMAGE_POSITION_PATIENT,
        VR::DS,
        decimals(position.iter()),
    ));
    object.put(DataElement::new(
        tags::PIXEL_DATA,
        VR::OW,
        PrimitiveValue::U16(stored.into()),
    ));
}

/// DS values (PS3.5 6.2: at most 16 characters each) joined by backslashes.
fn decimals<'a>(values: impl Iterator<Item = &'a f64>) -> String {
    values
        .map(|v| {
            format!("{:.6}", v + 0.0)
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_string()
        })
        .collect::<Vec<_>>()
        .join("\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_fit_the_value_representation() {
        assert_eq!(
            decimals([1.0, -0.703125, -1234.5678901].iter()),
            "1\\-0.703125\\-1234.56789"
        );
        assert_eq!(decimals([-0.0].iter()), "0");
    }
}
