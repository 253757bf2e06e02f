//! medlsamd: CT series in over DICOM, organs found and outlined, SEG and RTSTRUCT out.
//!
//! (The map is written when the house stands.)

pub mod geometry;
pub mod dicom;
pub mod structure;
pub mod progress;
pub mod failpoint;
pub mod series;
pub mod volume;
pub mod nifti;
pub mod inference;
pub mod localise;
pub mod teach;
pub mod evaluate;
pub mod mask;
pub mod segment;
pub mod results;
pub mod pipeline;
pub mod config;
pub mod protocol;
pub mod net;
pub mod job;
pub mod store;
pub mod intake;
pub mod gather;
pub mod watch;
pub mod scp;
pub mod engines;
pub mod sample;
pub mod table;
pub mod process;
pub mod worker;
pub mod delivery;
