//! medlsamd: CT series in over DICOM, organs found and outlined, SEG and RTSTRUCT out.
//!
//! (The map is written when the house stands.)

pub mod geometry;
pub mod dicom;
pub mod structure;
pub mod progress;
pub mod failpoint;
pub mod table;
pub mod series;
pub mod volume;
pub mod nifti;
pub mod inference;
pub mod mask;
pub mod localise;
pub mod teach;
pub mod segment;
pub mod results;
pub mod pipeline;
pub mod evaluate;
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
pub mod process;
pub mod worker;
pub mod delivery;
pub mod daemon;
pub mod exit;
pub mod terminal;
pub mod check;
pub mod demo;
pub mod cli;
