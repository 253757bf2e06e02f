//! One test binary; each file a promise.

mod support;

mod layers;
mod fences;
mod settings;
mod assembly;
mod real_series;
mod network;
mod network_peers;
mod localising;
mod main_job;
mod intake;
mod recovery;
mod results;
