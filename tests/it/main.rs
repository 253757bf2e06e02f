//! One test binary; each file a promise.

mod support;

mod layers;
mod fences;
mod fuzzing;
mod settings;
mod assembly;
mod real_series;
mod localising;
mod measuring;
mod patches;
mod segmenting;
mod misplaced;
mod medsam_vit_b;
mod results;
mod proof;
mod labelmaps;
mod labels;
mod reports;
mod names;
mod styles;
mod teaching;
mod external;
mod encoding;
mod network;
mod network_peers;
mod encrypted;
mod hostile;
mod crowd;
mod query;
mod intake;
mod recovery;
mod service;
mod main_job;
mod destinations;
