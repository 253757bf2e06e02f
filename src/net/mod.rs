//! Upper layer and DIMSE over TCP. Knows no hospital logic.

pub mod dimse;
pub mod association;
pub mod scu;
