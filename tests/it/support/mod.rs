//! What several integration tests share.

pub mod dataset;
pub mod log;
pub mod peers;
pub mod rude;
pub mod shelf;
pub mod source;
