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
            let forms = route.profile.forms_of(result, &protocol.results);
            let kinds: Vec<&'static Kind> = forms.iter().filter_map(|name| results::kind(name)).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Written;
    use crate::results::profile::SegEncoding;

    fn keys(wanted: &[Wanted]) -> Vec<(String, bool)> {
        let key = |w: &Wanted| (results::key(w.kind.name, &w.profile), w.optional);
        wanted.iter().map(key).collect()
    }

    #[test]
    fn alike_receivers_share_objects_and_a_form_that_was_not_written_is_not_sent() {
        let mut written = Written::example();
        let own = written.profile.get_mut("our_tps").unwrap();
        (own.seg, own.takes) = (SegEncoding::Auto, vec!["seg".into()]);
        own.style.names.insert("liver".into(), "Leber".into());
        let mut tps = written.destination[0].clone();
        (tps.name, tps.profile) = ("TPS".into(), "our_tps".into());
        written.destination.push(tps);
        written.protocol[0].send_to.push("TPS".into());
        let config = Config::resolve(written).unwrap();
        let (wanted, parcels) = plan(&config, &config.written.protocol[0]);
        let expected = [
            ("seg", false),
            ("rtstruct", false),
            ("labelmap-our_tps", true),
            ("seg-our_tps", false),
        ];
        assert_eq!(
            keys(&wanted),
            expected.map(|(key, optional)| (key.to_owned(), optional))
        );
        assert_eq!(parcels[0].items, [["seg"], ["rtstruct"]]);
        assert_eq!(parcels[1].items, [["labelmap-our_tps", "seg-our_tps"]]);
        let sent = of_written(parcels, &["seg", "rtstruct", "seg-our_tps"]);
        assert_eq!(sent[1].items, [["seg-our_tps"]]);
    }

    #[test]
    fn a_report_refers_to_the_seg_that_its_receiver_gets() {
        let seg_and_report = || vec!["seg".to_owned(), "sr".into()];
        let plan_of = |seg, takes: Vec<String>, made: Vec<String>| {
            let mut written = Written::example();
            let own = written.profile.get_mut("our_tps").unwrap();
            (own.seg, own.takes) = (seg, takes);
            let mut tps = written.destination[0].clone();
            (tps.name, tps.profile) = ("TPS".into(), "our_tps".into());
            written.destination.push(tps);
            written.protocol[0].send_to.push("TPS".into());
            written.protocol[0].results = made;
            let config = Config::resolve(written).unwrap();
            let (wanted, parcels) = plan(&config, &config.written.protocol[0]);
            // Everything sent is written.
            let written: Vec<String> = keys(&wanted).into_iter().map(|(key, _)| key).collect();
            let sent = || parcels.iter().flat_map(|parcel| parcel.items.iter().flatten());
            assert!(sent().all(|key| written.contains(key)), "{written:?}");
            // The archive, with its BINARY, is none the wiser.
            assert_eq!(parcels[0].items.last().unwrap(), &["sr"]);
            parcels[1].items.clone()
        };
        let style = config_style();
        let report = |kind: &str| vec![results::key(kind, &style)];
        let last = |items: Vec<Vec<String>>| items.last().unwrap().clone();
        let beside = |seg| last(plan_of(seg, seg_and_report(), seg_and_report()));
        assert_eq!(beside(SegEncoding::Binary), report("sr"));
        assert_eq!(beside(SegEncoding::Labelmap), report("sr_labelmap"));
        assert_eq!(beside(SegEncoding::Auto), report("sr_slices"));
        // One that takes no SEG, and a job that makes none.
        let alone = plan_of(SegEncoding::Binary, vec!["sr".into()], seg_and_report());
        assert_eq!(alone, [report("sr_slices")]);
        let none = plan_of(SegEncoding::Labelmap, seg_and_report(), vec!["sr".into()]);
        assert_eq!(none, [report("sr")]);
    }

    /// The style that the example's own profile writes in.
    fn config_style() -> String {
        let mut written = Written::example();
        written.destination[0].profile = "our_tps".into();
        Config::resolve(written).unwrap().routes[0].style.clone()
    }
}
