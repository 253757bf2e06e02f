//! A synthetic CT series whose HU are known at every point of patient space, written as a scanner writes it.

use dicom::core::{DataElement, PrimitiveValue, Tag, VR};
use dicom::dictionary_std::{tags, uids};
use dicom::object::{FileMetaTableBuilder, InMemDicomObject};
use medlsamd::dicom::header::Instance;
use std::path::{Path, PathBuf};

pub type Vec3 = [f64; 3];

/// How a phantom lies, and what it shows.
#[derive(Clone)]
pub struct Phantom {
    pub study_instance_uid: String,
    pub series_instance_uid: String,
    /// Image Orientation (Patient): row cosine, column cosine.
    pub row: Vec3,
    pub column: Vec3,
    /// From the centre of one slice to the next, millimetres: not along the normal when the gantry is tilted.
    pub step: Vec3,
    /// Patient position of the middle of the stack.
    pub centre: Vec3,
    /// Between rows, between columns.
    pub pixel_spacing_mm: [f64; 2],
    pub rows: u16,
    pub columns: u16,
    pub slices: usize,
    pub slope: f64,
    pub intercept: f64,
    pub signed: bool,
    /// HU at a patient position.
    pub hu: fn(Vec3) -> f64,
}

pub const CENTRE: Vec3 = [11.0, -23.0, 157.0];

/// Grows along each patient axis at a rate of its own, so that a shift, flip or swap shows in the value: averaging and linear
/// interpolation both keep it exactly.
pub fn ramp([x, y, z]: Vec3) -> f64 {
    3.0 * (x - CENTRE[0]) + 2.0 * (y - CENTRE[1]) - 2.5 * (z - CENTRE[2])
}

/// A trunk of 60 mm half width with a dense ball on its left, front and upper side.
#[allow(dead_code)]
pub fn body(p: Vec3) -> f64 {
    let d = [0, 1, 2].map(|axis| p[axis] - CENTRE[axis]);
    let ball = [d[0] - 25.0, d[1] + 20.0, d[2] - 40.0];
    if ball.iter().map(|c| c * c).sum::<f64>() < 15.0 * 15.0 {
        300.0
    } else if (d[0] / 60.0).powi(2) + (d[1] / 45.0).powi(2) < 1.0 {
        40.0
    } else {
        -1000.0
    }
}

/// The six ways a patient lies straight on the table, by the orientation their images get.
pub const STRAIGHT: [(&str, Vec3, Vec3); 6] = [
    ("HFS", [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
    ("HFP", [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]),
    ("FFS", [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
    ("FFP", [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]),
    ("HFDL", [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]),
    ("HFDR", [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]),
];

impl Phantom {
    /// A cube of 192 mm, so that every straight orientation covers the same space. Spacings differ in all three directions.
    pub fn lying(row: Vec3, column: Vec3) -> Self {
        Self {
            study_instance_uid: "2.25.1001".into(),
            series_instance_uid: "2.25.1002".into(),
            row,
            column,
            step: cross(row, column).map(|c| 4.0 * c),
            centre: CENTRE,
            pixel_spacing_mm: [1.6, 2.0],
            rows: 120,
            columns: 96,
            slices: 48,
            slope: 1.0,
            intercept: -1024.0,
            signed: false,
            hu: ramp,
        }
    }

    pub fn supine() -> Self {
        Self::lying(STRAIGHT[0].1, STRAIGHT[0].2)
    }

    /// Centre of the first pixel of slice `k`.
    pub fn position(&self, k: usize) -> Vec3 {
        let back = k as f64 - (self.slices - 1) as f64 / 2.0;
        let [between_rows, between_columns] = self.pixel_spacing_mm;
        let right = f64::from(self.columns - 1) / 2.0 * between_columns;
        let down = f64::from(self.rows - 1) / 2.0 * between_rows;
        [0, 1, 2].map(|c| self.centre[c] + back * self.step[c] - right * self.row[c] - down * self.column[c])
    }

    pub fn sop_instance_uid(&self, k: usize) -> String {
        format!("{}.{}", self.series_instance_uid, k + 1)
    }

    /// What slice `k` shows: stored values, row by row.
    pub fn stored(&self, k: usize) -> Vec<u16> {
        let origin = self.position(k);
        let [between_rows, between_columns] = self.pixel_spacing_mm;
        let mut stored = Vec::with_capacity(usize::from(self.rows) * usize::from(self.columns));
        for j in 0..self.rows {
            for i in 0..self.columns {
                let (right, down) = (f64::from(i) * between_columns, f64::from(j) * between_rows);
                let at = [0, 1, 2].map(|c| origin[c] + right * self.row[c] + down * self.column[c]);
                let value = (((self.hu)(at) - self.intercept) / self.slope).round();
                stored.push(if self.signed { value as i16 as u16 } else { value as u16 });
            }
        }
        stored
    }

    /// Slice `k` as a data set.
    pub fn object(&self, k: usize) -> InMemDicomObject {
        let text = |tag: Tag, vr: VR, value: String| DataElement::new(tag, vr, PrimitiveValue::from(value));
        let number = |tag: Tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
        let decimals = |values: &[f64]| values.iter().map(|v| format!("{v:.9}")).collect::<Vec<_>>().join("\\");
        let orientation = [self.row, self.column].concat();
        InMemDicomObject::from_element_iter([
            text(tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\AXIAL".into()),
            text(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE.into()),
            text(tags::SOP_INSTANCE_UID, VR::UI, self.sop_instance_uid(k)),
            text(tags::STUDY_DATE, VR::DA, "20260102".into()),
            text(tags::STUDY_TIME, VR::TM, "030405".into()),
            text(tags::ACCESSION_NUMBER, VR::SH, "A1".into()),
            text(tags::MODALITY, VR::CS, "CT".into()),
            text(tags::MANUFACTURER, VR::LO, "Phantom Works".into()),
            text(tags::REFERRING_PHYSICIAN_NAME, VR::PN, String::new()),
            text(tags::STUDY_DESCRIPTION, VR::LO, "Phantom".into()),
            text(tags::SERIES_DESCRIPTION, VR::LO, "Axial".into()),
            text(tags::PATIENT_NAME, VR::PN, "Phantom^Cube".into()),
            text(tags::PATIENT_ID, VR::LO, "PHANTOM1".into()),
            text(tags::PATIENT_BIRTH_DATE, VR::DA, String::new()),
            text(tags::PATIENT_SEX, VR::CS, "O".into()),
            text(tags::SLICE_THICKNESS, VR::DS, "3".into()),
            text(tags::KVP, VR::DS, "120".into()),
            text(tags::STUDY_INSTANCE_UID, VR::UI, self.study_instance_uid.clone()),
            text(tags::SERIES_INSTANCE_UID, VR::UI, self.series_instance_uid.clone()),
            text(tags::STUDY_ID, VR::SH, "1".into()),
            text(tags::SERIES_NUMBER, VR::IS, "2".into()),
            text(tags::ACQUISITION_NUMBER, VR::IS, "1".into()),
            text(tags::INSTANCE_NUMBER, VR::IS, (k + 1).to_string()),
            text(tags::IMAGE_POSITION_PATIENT, VR::DS, decimals(&self.position(k))),
            text(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, decimals(&orientation)),
            text(tags::FRAME_OF_REFERENCE_UID, VR::UI, "2.25.1003".into()),
            text(tags::POSITION_REFERENCE_INDICATOR, VR::LO, String::new()),
            number(tags::SAMPLES_PER_PIXEL, 1),
            text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2".into()),
            number(tags::ROWS, self.rows),
            number(tags::COLUMNS, self.columns),
            text(tags::PIXEL_SPACING, VR::DS, decimals(&self.pixel_spacing_mm)),
            number(tags::BITS_ALLOCATED, 16),
            number(tags::BITS_STORED, 16),
            number(tags::HIGH_BIT, 15),
            number(tags::PIXEL_REPRESENTATION, u16::from(self.signed)),
            text(tags::RESCALE_INTERCEPT, VR::DS, self.intercept.to_string()),
            text(tags::RESCALE_SLOPE, VR::DS, self.slope.to_string()),
            DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(self.stored(k).into())),
        ])
    }

    /// Writes the series into `dir` in explicit VR little endian, after `edit` had its way with each slice.
    pub fn write_edited(&self, dir: &Path, edit: impl Fn(usize, &mut InMemDicomObject)) -> Vec<PathBuf> {
        std::fs::create_dir_all(dir).unwrap();
        let write = |k| {
            let mut object = self.object(k);
            edit(k, &mut object);
            let path = dir.join(format!("{}.dcm", self.sop_instance_uid(k)));
            let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
            object.with_meta(meta).unwrap().write_to_file(&path).unwrap();
            path
        };
        (0..self.slices).map(write).collect()
    }

    pub fn write(&self, dir: &Path) -> Vec<PathBuf> {
        self.write_edited(dir, |_, _| ())
    }

    /// The series as our reader sees it.
    pub fn instances(&self, dir: &Path) -> Vec<Instance> {
        self.write(dir)
            .iter()
            .map(|path| Instance::read(path).unwrap())
            .collect()
    }
}

pub fn cross(a: Vec3, b: Vec3) -> Vec3 {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}
