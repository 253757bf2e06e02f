//! Values of the DICOM standard that the rest of the crate is written in.

pub mod uid;
pub mod ae;
pub mod characters;
pub mod status;
pub mod part10;
pub mod scan;
pub mod fields;
pub mod object;
pub mod recode;
pub mod codec;
pub mod header;
pub mod frames;
pub mod plain;
