//! What can be wrong with the peers, with destinations that must be peers too, and with those that are fetched from.

use crate::config::window::BadWindow;
use crate::config::{Problem, Window, Written};
use crate::dicom::ae::{Address, AeTitle};

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
        if peer.tls && peer.port == 0 {
            problems.push(Problem::new(
                format!("peer[{n}].tls"),
                "it says how we call this peer, which without a port we never do",
                "add its port; who calls us encrypted uses dicom.tls.listen, whatever stands here",
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
    let listed = |title: &AeTitle| {
        let titled = |text: &String| text == "any" || AeTitle::parse(text).as_ref() == Ok(title);
        written.peer.iter().any(|peer| titled(&peer.ae_title))
    };
    for (n, destination) in written.destination.iter().enumerate().filter(|(_, d)| d.commit) {
        if let Ok(address) = destination.address.parse::<Address>()
            && !listed(&address.ae_title)
        {
            problems.push(Problem::new(
                format!("destination[{n}].commit"),
                format!("{} may not call us, so its answer would be lost", address.ae_title),
                "add a [[peer]] with its AE title and host; may = [] is enough",
            ));
        }
    }
}

/// What `medlsamd fetch` is told; the window when there is a valid one.
pub fn check_fetch(written: &Written, problems: &mut Vec<Problem>) -> Option<Window> {
    let fetch = &written.fetch;
    if !fetch.from.is_empty() && !written.destination.iter().any(|d| d.name == fetch.from) {
        let problem = format!("no destination is called {:?}", fetch.from);
        problems.push(Problem::new(
            "fetch.from",
            problem,
            "add a [[destination]] of that name",
        ));
    }
    if fetch.window.is_empty() {
        return None;
    }
    let parsed = fetch.window.parse();
    parsed
        .map_err(|bad: BadWindow| problems.push(Problem::new("fetch.window", bad.to_string(), "e.g. \"22:00-05:00\"")))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_to_call_back_must_be_known_and_whoever_is_called_back_must_have_a_place() {
        let keys = |written: &Written| -> Vec<String> {
            let mut problems = Vec::new();
            check_peers(written, &mut problems);
            check_fetch(written, &mut problems);
            problems.into_iter().map(|problem| problem.key).collect()
        };
        let mut written = Written::example();
        assert!(keys(&written).is_empty());
        written.destination[0].commit = true;
        assert_eq!(keys(&written), ["destination[0].commit"], "PACS is no peer");
        written.peer[0].ae_title = "PACS".into();
        assert!(keys(&written).is_empty());
        written.peer[0].host = "any".into();
        (written.fetch.from, written.fetch.window) = ("VNA".into(), "always".into());
        assert_eq!(keys(&written), ["peer[0].port", "fetch.from", "fetch.window"]);
        (written.peer[0].tls, written.peer[0].port) = (true, 0);
        assert_eq!(keys(&written), ["peer[0].tls", "fetch.from", "fetch.window"]);
    }
}
