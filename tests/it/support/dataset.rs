//! Data sets written by hand, byte by byte, in explicit VR little endian.

use medlsamd::dicom::ae::AeTitle;
use medlsamd::dicom::uid::Uid;
use medlsamd::intake::{AssociationId, Claim, Options};

pub const CT_IMAGE_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.2";
pub const EXPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2.1";

/// A CT slice of a phantom.
#[derive(Clone)]
pub struct Slice {
    pub study: String,
    pub series: String,
    pub number: u32,
    pub modality: &'static str,
    /// Rows and columns.
    pub side: u16,
    pub fill: u8,
}

/// How an intake is set up in tests.
pub fn intake_options() -> Options {
    Options {
        min_free_bytes: 0,
        max_object_bytes: 64 << 20,
        teaching_ae: None,
        clock: jiff::Timestamp::now,
    }
}

impl Slice {
    pub fn new(series: &str, number: u32) -> Self {
        Self {
            study: "1.2.826.1".into(),
            series: series.into(),
            number,
            modality: "CT",
            side: 16,
            fill: 0,
        }
    }

    pub fn sop_instance_uid(&self) -> Uid {
        Uid::parse(&format!("{}.{}", self.series, self.number)).unwrap()
    }

    pub fn claim(&self, association: u64) -> Claim {
        Claim {
            sop_class_uid: Uid::parse(CT_IMAGE_STORAGE).unwrap(),
            sop_instance_uid: self.sop_instance_uid(),
            transfer_syntax_uid: Uid::parse(EXPLICIT_VR_LITTLE_ENDIAN).unwrap(),
            calling_ae: AeTitle::parse("CT1").unwrap(),
            called_ae: AeTitle::parse("MEDLSAM").unwrap(),
            association: AssociationId(association),
        }
    }

    pub fn data_set(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let side = self.side.to_le_bytes();
        text(&mut out, 0x0008_0008, b"CS", "ORIGINAL\\PRIMARY\\AXIAL");
        text(&mut out, 0x0008_0016, b"UI", CT_IMAGE_STORAGE);
        text(&mut out, 0x0008_0018, b"UI", self.sop_instance_uid().as_str());
        text(&mut out, 0x0008_0060, b"CS", self.modality);
        text(&mut out, 0x0010_0020, b"LO", "P1");
        text(&mut out, 0x0018_0050, b"DS", "2.5");
        text(&mut out, 0x0020_000D, b"UI", &self.study);
        text(&mut out, 0x0020_000E, b"UI", &self.series);
        text(&mut out, 0x0020_0013, b"IS", &self.number.to_string());
        text(
            &mut out,
            0x0020_0032,
            b"DS",
            &format!("0\\0\\{}", f64::from(self.number) * 2.5),
        );
        text(&mut out, 0x0020_0037, b"DS", "1\\0\\0\\0\\1\\0");
        text(&mut out, 0x0020_0052, b"UI", "1.2.826.9");
        short(&mut out, 0x0028_0002, b"US", &[1, 0]);
        text(&mut out, 0x0028_0004, b"CS", "MONOCHROME2");
        short(&mut out, 0x0028_0010, b"US", &side);
        short(&mut out, 0x0028_0011, b"US", &side);
        text(&mut out, 0x0028_0030, b"DS", "1\\1");
        short(&mut out, 0x0028_0100, b"US", &[16, 0]);
        short(&mut out, 0x0028_0101, b"US", &[16, 0]);
        short(&mut out, 0x0028_0102, b"US", &[15, 0]);
        short(&mut out, 0x0028_0103, b"US", &[1, 0]);
        text(&mut out, 0x0028_1052, b"DS", "-1024");
        text(&mut out, 0x0028_1053, b"DS", "1");
        let pixels = vec![self.fill; 2 * usize::from(self.side) * usize::from(self.side)];
        out.extend_from_slice(&[0xE0, 0x7F, 0x10, 0, b'O', b'W', 0, 0]);
        out.extend_from_slice(&(pixels.len() as u32).to_le_bytes());
        out.extend_from_slice(&pixels);
        out
    }

    /// A Part 10 file as another program would write it: without our private length.
    pub fn file(&self) -> Vec<u8> {
        let mut group = Vec::new();
        text(&mut group, 0x0002_0002, b"UI", CT_IMAGE_STORAGE);
        text(&mut group, 0x0002_0003, b"UI", self.sop_instance_uid().as_str());
        text(&mut group, 0x0002_0010, b"UI", EXPLICIT_VR_LITTLE_ENDIAN);
        let mut out = vec![0; 128];
        out.extend_from_slice(b"DICM");
        short(&mut out, 0x0002_0000, b"UL", &(group.len() as u32).to_le_bytes());
        out.extend_from_slice(&group);
        out.extend_from_slice(&self.data_set());
        out
    }
}

fn text(out: &mut Vec<u8>, tag: u32, vr: &[u8; 2], value: &str) {
    let mut bytes = value.as_bytes().to_vec();
    if bytes.len() % 2 == 1 {
        bytes.push(if vr == b"UI" { 0 } else { b' ' });
    }
    short(out, tag, vr, &bytes);
}

fn short(out: &mut Vec<u8>, tag: u32, vr: &[u8; 2], value: &[u8]) {
    out.extend_from_slice(&((tag >> 16) as u16).to_le_bytes());
    out.extend_from_slice(&(tag as u16).to_le_bytes());
    out.extend_from_slice(vr);
    out.extend_from_slice(&(value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
}
