//! What several promises are tested with.

pub mod asking;
pub mod certificates;
pub mod daemon;
pub mod data;
pub mod dataset;
pub mod log;
pub mod network;
pub mod node;
pub mod orthanc;
pub mod peers;
pub mod phantom;
pub mod proxy;
pub mod rude;
pub mod shelf;
pub mod source;
pub mod stop;
pub mod written;
