//! One test binary; each file a promise.

mod support;
mod network;
mod network_peers;
