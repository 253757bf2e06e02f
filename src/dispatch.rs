//! What a job writes, and what of it goes to whom: the protocol's results, in the encodings and styles of its destinations.

use crate::config::{Config, Protocol};
use crate::job::Parcel;
use crate::pipeline::Wanted;
use crate::results::{self, Kind};

/// The objects to write, each once, and a parcel for every destination.
///
/// The generic ones are always written: they are what stays here for people to look at.
pub fn plan(config: &Config, protocol: &Protocol) -> (Vec<Wanted>, Vec<Parcel>) {
    let mut wanted: Vec<Wanted> = protocol
        .results
        .iter()
        .filter_map(|name| results::kind(name))
        .map(Wanted::generic)
        .collect();
    let mut parcels = Vec::new();
    for route in protocol.send_to.iter().filter_map(|name| config.route(name)) {
        let mut items = Vec::new();
        for result in protocol
            .results
            .iter()
            .filter(|result| route.profile.takes.contains(result))
        {
            let kinds: Vec<&'static Kind> = match result.as_str() {
                "seg" => route
                    .profile
                    .seg
                    .kinds()
                    .iter()
                    .filter_map(|name| results::kind(name))
                    .collect(),
                other => results::kind(other).into_iter().collect(),
            };
            items.push(kinds.iter().map(|kind| results::key(kind.name, &route.style)).collect());
            let forms = kinds.len();
            for (n, kind) in kinds.into_iter().enumerate() {
                let optional = n + 1 < forms;
                match wanted
                    .iter_mut()
                    .find(|w| w.kind.name == kind.name && w.profile == route.style)
                {
                    Some(known) => known.optional &= optional,
                    None => wanted.push(Wanted {
                        kind,
                        profile: route.style.clone(),
                        style: route.profile.style.clone(),
                        optional,
                    }),
                }
            }
        }
        parcels.push(Parcel {
            destination: route.name.clone(),
            items,
        });
    }
    (wanted, parcels)
}

/// The parcels without the forms that could not be written.
pub fn of_written(mut parcels: Vec<Parcel>, keys: &[&str]) -> Vec<Parcel> {
    for item in parcels.iter_mut().flat_map(|parcel| &mut parcel.items) {
        item.retain(|key| keys.contains(&key.as_str()));
    }
    parcels
}

/// A parcel of one object for every destination of a protocol.
pub fn to_all(protocol: &Protocol, key: &str) -> Vec<Parcel> {
    let parcel = |destination: &String| Parcel {
        destination: destination.clone(),
        items: vec![vec![key.to_owned()]],
    };
    protocol.send_to.iter().map(parcel).collect()
}
