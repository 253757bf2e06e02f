//! What several promises are tested with.

pub mod data;
pub mod log;
pub mod peers;
pub mod phantom;
pub mod rude;
pub mod shelf;
pub mod source;
