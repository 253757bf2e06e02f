//! Promise: no bytes of a stranger bring a reader down. The seeds of the fuzz targets, and whatever they found, are replayed here with
//! random damage; `make fuzz` looks further.

#[path = "../../fuzz/targets.rs"]
mod targets;

use targets::Target;

use crate::labelmaps::{disjoint, labelmap};
use crate::support::written::{shapes, with_source};
use medlsamd::dicom::status::Status;
use medlsamd::net::association::push_fragment;
use medlsamd::net::dimse::{Operation, Request};
use medlsamd::net::pdu::{APPLICATION_CONTEXT, AssociateRequest, Proposed, RELEASE_RQ_BYTES};
use medlsamd::results;
use medlsamd::results::style::{Holes, Style};
use medlsamd::scp::SERVICES;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

fn seeds_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds")
}

/// Target and bytes of every committed file.
fn seeds() -> &'static [(Target, Vec<u8>)] {
    static SEEDS: OnceLock<Vec<(Target, Vec<u8>)>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let mut seeds = Vec::new();
        for (name, target) in targets::TARGETS {
            let folder = std::fs::read_dir(seeds_dir().join(name)).expect(name);
            let files = folder.map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
            let before = seeds.len();
            seeds.extend(files.map(|bytes| (target, bytes)));
            assert!(seeds.len() > before, "{name} has seeds");
        }
        seeds
    })
}

#[test]
fn every_seed_and_every_finding_is_survived() {
    for (target, bytes) in seeds() {
        target(bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn damaged_seeds_are_survived(
        which in any::<prop::sample::Index>(), end in any::<prop::sample::Index>(), cut in 0..4u8,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let (target, seed) = which.get(seeds());
        let mut bytes = seed.clone();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut == 0 {
            bytes.truncate(end.index(bytes.len()));
        }
        target(&bytes);
    }
}

fn requests() -> Vec<Request> {
    let request = |operation, sop_class_uid: &str, has_data| Request {
        operation,
        message_id: 1,
        sop_class_uid: sop_class_uid.into(),
        has_data,
    };
    let sop_instance_uid = "1.2.3".to_owned();
    vec![
        request(Operation::Echo, "1.2.840.10008.1.1", false),
        request(Operation::Store { sop_instance_uid }, "1.2.840.10008.5.1.4.1.1.2", true),
        request(Operation::Cancel, "1.2.840.10008.1.1", false),
    ]
}

/// An association that asks for all we offer, sends one request and releases.
fn conversation(request: &Request) -> Vec<u8> {
    let proposed = SERVICES.iter().flat_map(|service| {
        let one = |uid: &&str| {
            (
                uid.to_string(),
                service.transfer_syntaxes.iter().map(|s| s.to_string()).collect(),
            )
        };
        service
            .abstract_syntaxes
            .iter()
            .map(one)
            .collect::<Vec<(String, Vec<String>)>>()
    });
    let contexts = proposed
        .enumerate()
        .map(|(n, (abstract_syntax, transfer_syntaxes))| Proposed {
            id: 2 * n as u8 + 1,
            abstract_syntax,
            transfer_syntaxes,
        });
    let contexts: Vec<Proposed> = contexts.collect();
    let id = contexts
        .iter()
        .find(|c| c.abstract_syntax == request.sop_class_uid)
        .map_or(1, |c| c.id);
    let rq = AssociateRequest {
        protocol_version: 1,
        called_ae: "MEDLSAM".into(),
        calling_ae: "CT1".into(),
        application_context: APPLICATION_CONTEXT.into(),
        contexts,
        max_pdu: 16_384,
        ..AssociateRequest::default()
    };
    let mut bytes = rq.encode();
    push_fragment(&mut bytes, id, true, true, &request.encode());
    if request.has_data {
        push_fragment(&mut bytes, id, false, false, &[8, 0, 0x16, 0, b'U', b'I', 0, 0]);
        push_fragment(
            &mut bytes,
            id,
            false,
            true,
            &[0x10, 0, 0x10, 0, b'P', b'N', 2, 0, b'A', b' '],
        );
    }
    bytes.extend(RELEASE_RQ_BYTES);
    bytes
}

/// What the committed seeds were made with, by our own writers: nobody's data.
#[test]
#[ignore = "writes fuzz/seeds"]
fn make_seeds() {
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let dir = seeds_dir().join(target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), bytes).unwrap();
    };
    for (n, request) in requests().iter().enumerate() {
        put("command", &format!("request_{n}"), &request.encode());
        put(
            "command",
            &format!("response_{n}"),
            &request.answer(Status::OUT_OF_RESOURCES, "full").encode(),
        );
        put("association", &format!("conversation_{n}"), &conversation(request));
    }
    let folder = tempfile::tempdir().unwrap();
    let series = targets::ct_in(folder.path());
    put("part10", "ct", &std::fs::read(&series.slices[0].path).unwrap());
    let (masks, flat) = (shapes(&series), disjoint(&series));
    let (plain, keyhole) = (
        Style {
            rle: false,
            ..Style::default()
        },
        Style::default(),
    );
    let xor = Style {
        holes: Holes::Xor,
        ..Style::default()
    };
    for (name, kind, style) in [
        ("seg", "seg", &plain),
        ("rtstruct", "rtstruct", &keyhole),
        ("rtstruct_xor", "rtstruct", &xor),
        ("sr", "sr", &plain),
    ] {
        let kind = results::kind(kind).unwrap();
        let object = with_source(&series, &masks, "seed", (results::GENERIC, style), |source| {
            (kind.write)(source)
        });
        put(
            if name == "sr" { "part10" } else { "labels" },
            name,
            &object.unwrap().part10,
        );
    }
    for (name, style) in [("labelmap", &plain), ("labelmap_rle", &keyhole)] {
        let object = labelmap(&series, &flat, (results::GENERIC, style)).unwrap();
        put("labels", name, &object.part10);
    }
}
