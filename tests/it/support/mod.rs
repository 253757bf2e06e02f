//! What several promises are tested with.

pub mod data;
pub mod phantom;
