//! What can be wrong with the peers.

use crate::config::{Problem, Written};
use crate::dicom::ae::AeTitle;

pub fn check_peers(written: &Written, problems: &mut Vec<Problem>) {
    for (n, peer) in written.peer.iter().enumerate() {
        if peer.ae_title != "any"
            && let Err(error) = AeTitle::parse(&peer.ae_title)
        {
            problems.push(Problem::new(
                format!("peer[{n}].ae_title"),
                error.to_string(),
                "the calling AE title, or \"any\"",
            ));
        }
        if peer.port != 0 && [&peer.ae_title, &peer.host].iter().any(|text| *text == "any") {
            problems.push(Problem::new(
                format!("peer[{n}].port"),
                "whoever is called back needs an AE title and a host of its own",
                "leave the port out, or write down title and host",
            ));
        }
        if peer.host.trim().is_empty() {
            problems.push(Problem::new(
                format!("peer[{n}].host"),
                "empty",
                "an address, a host name, or \"any\"",
            ));
        }
    }
}
