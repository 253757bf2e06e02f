//! medlsamd: CT series in over DICOM, organs found and outlined, DICOM SEG and RTSTRUCT out.
//!
//! # What a series goes through
//!
//! ```text
//!  P-DATA ──net──► bytes ──intake──► AcceptedInstance      0000 is said only with this receipt in hand
//!                                        │
//!                    gather decides: whole? which protocol? ── store: a job
//!                                        │ claimed by worker
//!               ┌─────────────────── pipeline ──────────────────────────┐
//!               │ series::assemble      instances → ordered Series      │  or a Rejection that names the slice
//!               │ volume::reconstruct   Series → HU on a grid           │
//!               │ localise              Volume → a box per structure    │  or NotFound, with the reason
//!               │ segment               boxes → a Mask per structure    │
//!               │ results               masks → SEG, RTSTRUCT, picture  │
//!               │ proof                 what was written, read back     │  or the job ends: nothing is kept
//!               └────────────────────────┬──────────────────────────────┘
//!                    store.keep: results durable, deliveries pending
//!                                        │ delivery
//!                                   the PACS acknowledges
//! ```
//!
//! Three durable edges hold the rest together: *instance accepted*, *results kept*, *delivery acknowledged*. What lies between
//! two of them is computed again after a crash, whole; the UIDs and dates of a result come from the job row, so a repeated run
//! makes the same objects and a repeated send is a duplicate.
//!
//! # Layers
//!
//! The order of the modules below is the order of the layers: a module may name only those above it in this list
//! (`tests/it/layers.rs` holds us to it). Read them in this order.
//!
//! - **Values**: [`geometry`] (patient and voxel space), [`dicom`] (UIDs, AE titles, status codes, headers, Part 10,
//!   objects in plain encodings), [`structure`] (the anatomy table), [`progress`], [`failpoint`] (where tests kill us),
//!   [`table`].
//! - **The pure middle**: [`series`], [`volume`], [`nifti`], [`inference`] (ONNX Runtime and the models), [`mask`],
//!   [`labels`] (RTSTRUCT and SEG of others, and a second eye on ours), [`localise`] (MedLAM), [`teach`] (templates),
//!   [`segment`] (MedSAM), [`plausible`] (left is left), [`results`] (one file per kind), [`proof`] (read back before it is
//!   kept), [`pipeline`] (the story in six steps), [`evaluate`] (against truth), [`query`] (what is asked and what
//!   answers), [`commitment`]. No clock, socket, database or async here.
//! - **Decisions and memory**: [`config`], [`protocol`] (which series is whose), [`net`] (upper layer and DIMSE, no
//!   hospital logic), [`job`] (the state machine, one pure function), [`dispatch`] (what goes to whom), [`store`] (the only
//!   SQL), [`intake`] (bytes → durable instance), [`lesson`] (what is taught over DICOM), [`gather`] (when a series is
//!   whole), [`watch`] (drop folders), [`archive`] (what others may ask for).
//! - **Edges**: [`scp`] (what we answer), [`web`] (the same over HTTP), [`engines`] (the resident models), [`sample`],
//!   [`process`] (files in, files out), [`worker`] (the compute lane), [`delivery`] (what we send), [`fetch`] (what we get
//!   from an archive), [`daemon`] (the only place that knows everyone), [`exit`], [`terminal`], [`check`], [`demo`],
//!   [`conformance`] (the statement, from the tables), [`cli`].
//!
//! # What never happens
//!
//! - No success is said for an object that is not on disk under its final name and synced.
//! - No text of a peer becomes a path: a [`dicom::uid::Uid`] cannot hold a slash.
//! - No structure is invented: what is out of view or doubtful is left out or marked, with the reason in the report.
//! - No execution provider is passed over in silence ([`inference::runtime::Assignment`]).
//! - No patient data is logged.
//! - No state is kept in folder names: state is rows, files are content.

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
pub mod labels;
pub mod localise;
pub mod teach;
pub mod segment;
pub mod plausible;
pub mod results;
pub mod proof;
pub mod pipeline;
pub mod evaluate;
pub mod query;
pub mod commitment;
pub mod config;
pub mod protocol;
pub mod net;
pub mod job;
pub mod dispatch;
pub mod store;
pub mod intake;
pub mod lesson;
pub mod gather;
pub mod watch;
pub mod archive;
pub mod scp;
pub mod web;
pub mod engines;
pub mod sample;
pub mod process;
pub mod worker;
pub mod delivery;
pub mod fetch;
pub mod daemon;
pub mod exit;
pub mod terminal;
pub mod check;
pub mod demo;
pub mod conformance;
pub mod cli;
