//! One test binary; each file a promise.

mod support;
mod layers;
mod fences;
mod settings;
mod network;
mod network_peers;
mod localising;
mod localising_measured;
