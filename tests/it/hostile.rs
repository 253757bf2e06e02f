//! What strangers may put into association requests and data sets, sent over the wire into the real intake: each has its answer,
//! costs little, and the association goes on.

use crate::support::dataset::Slice;
use crate::support::log::Log;
use crate::support::rude::{CT, CT_CONTEXT, ECHO_CONTEXT, Rude, VERIFICATION, message, request, store};
use crate::support::shelf::{Server, real_intake};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use medlsamd::dicom::status::Status;
use medlsamd::net::association::push_fragment;
use medlsamd::net::pdu::{AssociateAccept, AssociateRequest, Proposed};
use std::io::Write;
use tokio::net::TcpSocket;

const DEFLATED: &str = "1.2.840.10008.1.2.1.99";

/// A good slice with these bytes put before its first attribute of group 0010.
fn with_inserted(number: u32, bytes: &[u8]) -> (Slice, Vec<u8>) {
    let slice = Slice::new("1.2.826.2", number);
    let mut data = slice.data_set();
    let at = data.windows(4).position(|w| w == [0x10, 0, 0x20, 0]).unwrap();
    data.splice(at..at, bytes.iter().copied());
    (slice, data)
}

/// An explicit VR element header with a 32-bit length.
fn long(group: u16, element: u16, vr: &[u8; 2], length: u32) -> Vec<u8> {
    let [group, element] = [group, element].map(u16::to_le_bytes);
    [&group[..], &element, vr, &[0, 0], &length.to_le_bytes()].concat()
}

const ITEM: [u8; 8] = [0xFE, 0xFF, 0x00, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF];
const ITEM_END: [u8; 8] = [0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0];
const SEQUENCE_END: [u8; 8] = [0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0];

#[tokio::test]
async fn monstrous_data_sets_are_refused_with_a_sentence() {
    let (_dir, address) = real_intake(|_| {}).await;
    let mut peer = Rude::associate(address).await;
    let depth = 2000;
    let mut nested = Vec::new();
    (0..depth).for_each(|_| nested.extend([&long(9, 0x1001, b"SQ", u32::MAX)[..], &ITEM].concat()));
    (0..depth).for_each(|_| nested.extend([ITEM_END, SEQUENCE_END].concat()));
    let huge = long(9, 0x1001, b"OB", 2_000_000_000);
    let endless_text = long(9, 0x1001, b"UT", u32::MAX);
    for (number, (bytes, cause)) in [
        (nested, "sequences nest"),
        (huge, "not a readable DICOM object"),
        (endless_text, "not a readable DICOM object"),
    ]
    .into_iter()
    .enumerate()
    {
        let (slice, data) = with_inserted(number as u32, &bytes);
        peer.send(&message(CT_CONTEXT, &store(slice.sop_instance_uid().as_str()), &data))
            .await;
        let response = peer.response().await;
        assert_eq!(
            response.status,
            Status::CANNOT_UNDERSTAND,
            "{cause}: {}",
            response.comment
        );
        assert!(response.comment.contains(cause), "{cause}: {}", response.comment);
        peer.must_echo().await;
    }
    peer.must_release().await;
}

#[tokio::test]
async fn a_deflate_bomb_is_refused_and_costs_its_bound() {
    let (_dir, address) = real_intake(|_| {}).await;
    let mut peer = Rude::connect(address).await;
    let mut wish = request("SENDER", "MEDLSAM");
    wish.contexts[1].transfer_syntaxes = vec![DEFLATED.into()];
    peer.send(&wish.encode()).await;
    assert_eq!(peer.hear().await.unwrap().0, 2);
    let mut stream = DeflateEncoder::new(Vec::new(), Compression::best());
    let (slice, data) = with_inserted(1, &long(9, 0x1001, b"OB", 1 << 30));
    let at = data.windows(4).position(|w| w == [9, 0, 1, 0x10]).unwrap() + 12;
    stream.write_all(&data[..at]).unwrap();
    let zeros = vec![0; 1 << 20];
    (0..256).for_each(|_| stream.write_all(&zeros).unwrap());
    let bomb = stream.finish().unwrap();
    assert!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
    let mut bytes = Vec::new();
    push_fragment(
        &mut bytes,
        CT_CONTEXT,
        true,
        true,
        &store(slice.sop_instance_uid().as_str()).encode(),
    );
    let last = bomb.chunks(100_000).count() - 1;
    for (index, chunk) in bomb.chunks(100_000).enumerate() {
        push_fragment(&mut bytes, CT_CONTEXT, false, index == last, chunk);
    }
    peer.send(&bytes).await;
    let response = peer.response().await;
    assert_eq!(response.status, Status::CANNOT_UNDERSTAND, "{}", response.comment);
    peer.must_echo().await;
}

/// CP-246: an Unknown of undefined length holds implicit VR, whatever is around it. Philips scanners and PACS write such.
#[tokio::test]
async fn unknowns_of_undefined_length_are_taken_verbatim() {
    let (dir, address) = real_intake(|_| {}).await;
    let mut peer = Rude::associate(address).await;
    let implicit_element = [&[9, 0, 2, 0x10, 4, 0, 0, 0][..], b"text"].concat();
    let unknown = [
        &long(9, 0x1001, b"UN", u32::MAX)[..],
        &ITEM,
        &implicit_element,
        &ITEM_END,
        &SEQUENCE_END,
    ]
    .concat();
    let (slice, data) = with_inserted(1, &unknown);
    peer.send(&message(CT_CONTEXT, &store(slice.sop_instance_uid().as_str()), &data))
        .await;
    let response = peer.response().await;
    assert_eq!(response.status, Status::SUCCESS, "{}", response.comment);
    peer.must_release().await;
    let path = dir.path().join("series/1.2.826.1/1.2.826.2/1.2.826.2.1.dcm");
    let instance = medlsamd::dicom::header::Instance::read(&path).unwrap();
    assert_eq!((instance.patient_id.as_str(), instance.rows), ("P1", 16));
    assert!(std::fs::read(&path).unwrap().ends_with(&data));
}

#[tokio::test]
async fn a_flood_of_empty_and_tiny_fragments_is_only_slow() {
    let (_dir, address) = real_intake(|_| {}).await;
    let mut other = Rude::associate(address).await;
    let mut peer = Rude::associate(address).await;
    let slice = Slice::new("1.2.826.2", 1);
    let mut bytes = Vec::new();
    (0..50_000).for_each(|_| push_fragment(&mut bytes, CT_CONTEXT, true, false, &[]));
    push_fragment(
        &mut bytes,
        CT_CONTEXT,
        true,
        true,
        &store(slice.sop_instance_uid().as_str()).encode(),
    );
    for byte in slice.data_set() {
        (0..20).for_each(|_| push_fragment(&mut bytes, CT_CONTEXT, false, false, &[]));
        push_fragment(&mut bytes, CT_CONTEXT, false, false, &[byte]);
    }
    push_fragment(&mut bytes, CT_CONTEXT, false, true, &[]);
    peer.send(&bytes).await;
    other.must_echo().await;
    assert_eq!(peer.response().await.status, Status::SUCCESS);
    other.must_echo().await;
    peer.must_release().await;
}

/// Appends a sub-item to the user information, the last item of the request.
fn with_user_items(request: &AssociateRequest, items: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = request.encode();
    let mut added = Vec::new();
    for (kind, content) in items {
        added.extend([*kind, 0]);
        added.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        added.extend(*content);
    }
    // The item whose length reaches to the end.
    let reaches = |at: &usize| {
        let length = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        bytes[*at] == 0x50 && at + 4 + length == bytes.len()
    };
    let at = (74..bytes.len() - 4).find(reaches).unwrap();
    let inner = u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]) + added.len() as u16;
    bytes[at + 2..at + 4].copy_from_slice(&inner.to_be_bytes());
    bytes.extend(added);
    let whole = (bytes.len() - 6) as u32;
    bytes[2..6].copy_from_slice(&whole.to_be_bytes());
    bytes
}

/// We do not check identities, so there is no positive response to give (PS3.7 D.3.3.7.2), and no window but 1,1 (D.3.3.3).
#[tokio::test]
async fn items_we_have_no_use_for_are_let_pass_unanswered() {
    let server = Server::start(|_| {}).await;
    let identity = [&[2, 1, 0, 4][..], b"user", &[0, 6], b"secret"].concat();
    let sop_class = [&[0, 17][..], VERIFICATION.as_bytes(), &[1, 0, 1]].concat();
    let items: [(u8, &[u8]); 5] = [
        (0x53, &[0, 16, 0, 16]),
        (0x56, &sop_class),
        (0x57, &sop_class),
        (0x58, &identity),
        (0x7F, &[0; 900]),
    ];
    let mut peer = Rude::connect(server.address).await;
    peer.send(&with_user_items(&request("SENDER", "MEDLSAM"), &items)).await;
    let (kind, body) = peer.hear().await.unwrap();
    assert_eq!(kind, 2);
    let accept = AssociateAccept::decode(&body).unwrap();
    assert!(accept.contexts.iter().all(|c| c.result == 0));
    let at = body.windows(4).rposition(|w| w == [0x51, 0, 0, 4]).unwrap();
    let (mut at, mut kinds) = (at, Vec::new());
    while at < body.len() {
        kinds.push(body[at]);
        at += 4 + usize::from(u16::from_be_bytes([body[at + 2], body[at + 3]]));
    }
    assert!(!kinds.contains(&0x53) && !kinds.contains(&0x59), "{kinds:02X?}");
    peer.must_echo().await;
    peer.must_release().await;
    server.stop().await;
}

#[tokio::test]
async fn oversized_strings_and_endless_contexts_are_answered_or_refused() {
    let (log, server) = (Log::capture(), Server::start(|_| {}).await);
    // Every odd id with as many syntaxes as fit: answered one by one.
    let context = |id, count| Proposed {
        id,
        abstract_syntax: if id == ECHO_CONTEXT { VERIFICATION } else { CT }.into(),
        transfer_syntaxes: (0..count).map(|n| format!("1.2.840.10008.1.2.4.{n}")).collect(),
    };
    let mut many = request("SENDER", "MEDLSAM");
    many.contexts.extend((5..=255).step_by(2).map(|id| context(id, 30)));
    let mut peer = Rude::connect(server.address).await;
    peer.send(&many.encode()).await;
    let accept = AssociateAccept::decode(&peer.hear().await.unwrap().1).unwrap();
    assert_eq!(accept.contexts.len(), 128);
    peer.must_echo().await;
    peer.must_release().await;

    // More bytes than any honest request.
    many.contexts
        .iter_mut()
        .for_each(|c| c.transfer_syntaxes.extend((0..40).map(|n| format!("1.2.3.{n}"))));
    let mut peer = Rude::connect(server.address).await;
    peer.send(&many.encode()).await;
    peer.must_abort(6).await;
    log.must_warn(&["A-ASSOCIATE-RQ of"]);

    // A name of 60,000 letters, and one with a line break: neither is echoed or logged as it is.
    let mut wide = request("SENDER", "MEDLSAM");
    wide.contexts.push(Proposed {
        id: 5,
        abstract_syntax: "9".repeat(60_000),
        transfer_syntaxes: vec![],
    });
    let mut peer = Rude::connect(server.address).await;
    peer.send(&wide.encode()).await;
    let (kind, body) = peer.hear().await.unwrap();
    assert!(kind == 2 && body.len() < 1000, "{kind} {}", body.len());
    let mut peer = Rude::connect(server.address).await;
    peer.send(&request("EVIL\nINFO done", "MEDLSAM").encode()).await;
    assert_eq!(peer.hear().await.unwrap().0, 3);
    assert!(!log.text().contains("EVIL\nINFO"));
    server.stop().await;
}

#[tokio::test]
async fn no_host_takes_the_places_of_the_others() {
    let (log, server) = (Log::capture(), Server::start(|d| d.max_associations_per_host = 3).await);
    let mut greedy = Vec::new();
    for _ in 0..3 {
        greedy.push(Rude::associate(server.address).await);
    }
    let mut fourth = Rude::connect(server.address).await;
    fourth.send(&request("SENDER", "MEDLSAM").encode()).await;
    // Transient, by the presentation provider, local limit exceeded (PS3.8 table 9-21).
    assert_eq!(fourth.hear().await, Some((3, vec![0, 2, 3, 2])));
    log.must_warn(&["refused association", "this host has 3 associations already", "SENDER"]);
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = Rude::from(socket.connect(server.address).await.unwrap());
    other.send(&request("VISITOR", "MEDLSAM").encode()).await;
    assert_eq!(other.hear().await.unwrap().0, 2, "another host gets its association");
    greedy.pop().unwrap().must_release().await;
    Rude::associate(server.address).await.must_release().await;
    server.stop().await;
}
