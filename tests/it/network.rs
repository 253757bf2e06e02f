//! The wire: what bad manners lead to, what limits hold, and that bytes arrive as they were sent.

use crate::support::log::Log;
use crate::support::rude::{CT, CT_CONTEXT, ECHO_CONTEXT, Rude, echo, message, request, store};
use crate::support::shelf::Server;
use medlsamd::dicom::status::Status;
use medlsamd::net::association::push_fragment;
use medlsamd::net::dimse::{Operation, Request};
use medlsamd::net::pdu::{AssociateAccept, Proposed};
use medlsamd::net::scu::{self, ScuError};
use std::time::Duration;

const UNRECOGNIZED_PDU: u8 = 1;
const UNEXPECTED_PDU: u8 = 2;
const INVALID_PARAMETER: u8 = 6;

/// The daemon went on, and no association is left open at the intake.
async fn must_go_on(server: Server) {
    assert_eq!(scu::echo(&server.dial("SENDER")).await.unwrap(), Status::SUCCESS);
    server.shelf.settled().await;
    server.stop().await;
}

#[tokio::test]
async fn garbage_is_answered_with_an_abort() {
    let (log, server) = (Log::capture(), Server::start(|_| {}).await);
    let mut peer = Rude::connect(server.address).await;
    peer.send(b"GET / HTTP/1.1\r\nHost: medlsam\r\n\r\n").await;
    peer.must_abort(UNRECOGNIZED_PDU).await;
    log.must_warn(&["aborted association", "PDU type 47H", "127.0.0.1"]);
    must_go_on(server).await;
}

#[tokio::test]
async fn a_half_association_ends_by_the_artim_timer_even_if_it_trickles() {
    let (log, server) = (Log::capture(), Server::start(|d| d.artim_timeout_s = 1).await);
    let mut silent = Rude::connect(server.address).await;
    let mut half = Rude::connect(server.address).await;
    let mut slow = Rude::connect(server.address).await;
    let bytes = request("SENDER", "MEDLSAM").encode();
    half.send(&bytes[..bytes.len() / 2]).await;
    for byte in &bytes[..14] {
        slow.send(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for peer in [&mut silent, &mut half, &mut slow] {
        peer.must_abort(0).await;
    }
    log.must_warn(&["aborted association", "timed out after 1 s", "A-ASSOCIATE-RQ"]);
    let mut gone = Rude::connect(server.address).await;
    gone.send(&bytes[..20]).await;
    drop(gone);
    must_go_on(server).await;
    log.must_warn(&["association broke off", "closed the connection"]);
}

#[tokio::test]
async fn a_length_of_4_gigabytes_is_refused_at_once() {
    let (log, server) = (Log::capture(), Server::start(|_| {}).await);
    let mut before = Rude::connect(server.address).await;
    before.send(&[1, 0, 0xff, 0xff, 0xff, 0xff]).await;
    before.must_abort(INVALID_PARAMETER).await;
    log.must_warn(&["A-ASSOCIATE-RQ of 4294967295 bytes"]);
    let mut pdu = Rude::associate(server.address).await;
    pdu.send(&[4, 0, 0xff, 0xff, 0xff, 0xff]).await;
    pdu.must_abort(INVALID_PARAMETER).await;
    log.must_warn(&["P-DATA-TF of 4294967295 bytes", "131072"]);
    let mut pdv = Rude::associate(server.address).await;
    pdv.send(&[4, 0, 0, 0, 0, 100, 0xff, 0xff, 0xff, 0xff, CT_CONTEXT, 3])
        .await;
    pdv.must_abort(INVALID_PARAMETER).await;
    log.must_warn(&["presentation data value of 4294967295 bytes"]);
    let mut element = Rude::associate(server.address).await;
    let mut command = echo().encode();
    command[16..20].copy_from_slice(&[0xff; 4]);
    let mut bytes = Vec::new();
    push_fragment(&mut bytes, ECHO_CONTEXT, true, true, &command);
    element.send(&bytes).await;
    element.must_abort(INVALID_PARAMETER).await;
    log.must_warn(&["command set ends inside an element"]);
    must_go_on(server).await;
}

#[tokio::test]
async fn lengths_that_do_not_add_up_are_refused() {
    let server = Server::start(|_| {}).await;
    let pdus: [&[u8]; 5] = [
        &[4, 0, 0, 0, 0, 0],                      // no presentation data value at all
        &[4, 0, 0, 0, 0, 6, 0, 0, 0, 1, 1, 3],    // one too short for its own header
        &[4, 0, 0, 0, 0, 7, 0, 0, 0, 2, 1, 1, 0], // a byte left over
        &[4, 0, 0, 0, 0, 6, 0, 0, 0, 3, 1, 3, 0], // one longer than its PDU
        &[5, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0],       // A-RELEASE-RQ of five bytes
    ];
    for pdu in pdus {
        let mut peer = Rude::associate(server.address).await;
        peer.send(pdu).await;
        let (kind, _) = peer.hear().await.unwrap();
        assert_eq!(kind, 7, "{pdu:?}");
    }
    must_go_on(server).await;
}

#[tokio::test]
async fn a_uid_that_is_a_path_is_refused_and_the_association_goes_on() {
    let (log, server) = (Log::capture(), Server::start(|_| {}).await);
    let mut peer = Rude::associate(server.address).await;
    for bad in ["../../etc/passwd", "1.2/3", "", "1..2", &"1.".repeat(60)] {
        peer.send(&message(CT_CONTEXT, &store(bad), &[0; 3000])).await;
        let response = peer.response().await;
        assert_eq!(
            (response.responded_to, response.status),
            (9, Status::CANNOT_UNDERSTAND),
            "{bad}"
        );
        assert!(response.comment.contains("UID"), "{}", response.comment);
    }
    log.must_warn(&["refused request", "C000H", "../../etc/passwd"]);
    peer.must_echo().await;
    peer.send(&message(CT_CONTEXT, &store("1.2.3"), b"data")).await;
    assert_eq!(peer.response().await.status, Status::SUCCESS);
    peer.must_release().await;
    assert_eq!(server.shelf.with(|c| c.stored.len()), 1);
    must_go_on(server).await;
}

#[tokio::test]
async fn strangers_and_wrong_numbers_are_rejected_with_the_reason() {
    let (log, server) = (Log::capture(), Server::start(|_| {}).await);
    let rejections = [
        (
            "STRANGER",
            "MEDLSAM",
            [1, 1, 3],
            "no [[peer]] has this calling AE title",
        ),
        ("ELSEWHERE", "MEDLSAM", [1, 1, 3], "another host"),
        ("SENDER", "ORTHANC", [1, 1, 7], "it called \\\"ORTHANC\\\""),
    ];
    for (calling, called, told, cause) in rejections {
        let mut peer = Rude::connect(server.address).await;
        peer.send(&request(calling, called).encode()).await;
        let (kind, body) = peer.hear().await.unwrap();
        assert_eq!((kind, &body[1..]), (3, &told[..]), "{calling} {called}");
        log.must_warn(&["refused association", calling, cause]);
    }
    let rejected = scu::echo(&server.dial("STRANGER")).await.unwrap_err();
    assert!(
        matches!(&rejected, ScuError::Rejected { cause, .. } if cause.contains("calling AE")),
        "{rejected}"
    );
    must_go_on(server).await;
}

#[tokio::test]
async fn contexts_are_answered_one_by_one_and_need_permission() {
    let server = Server::start(|_| {}).await;
    let mut peer = Rude::connect(server.address).await;
    let mut wish = request("VISITOR", "MEDLSAM");
    let proposed = |id, class: &str, syntax: &str| Proposed {
        id,
        abstract_syntax: class.into(),
        transfer_syntaxes: vec![syntax.into()],
    };
    wish.contexts
        .push(proposed(5, "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2"));
    wish.contexts
        .push(proposed(7, "1.2.840.10008.1.1", "1.2.840.10008.1.2.4.51"));
    peer.send(&wish.encode()).await;
    let (_, body) = peer.hear().await.unwrap();
    let accept = AssociateAccept::decode(&body).unwrap();
    assert_eq!(accept.max_pdu, 131_072);
    assert_eq!(
        accept.contexts.iter().map(|c| c.result).collect::<Vec<_>>(),
        [0, 1, 3, 4]
    );
    peer.must_echo().await;
    peer.send(&message(CT_CONTEXT, &store("1.2.3"), b"data")).await;
    peer.must_abort(INVALID_PARAMETER).await;
    must_go_on(server).await;
}

#[tokio::test]
async fn every_way_to_cut_a_message_into_fragments_is_understood() {
    let server = Server::start(|_| {}).await;
    let mut peer = Rude::associate(server.address).await;
    let data: Vec<u8> = (0..3000u32).map(|n| n as u8).collect();
    let command = |uid: &str| store(uid).encode();

    // The command byte by byte, each in a PDU of its own, with empty fragments between.
    let mut bytes = Vec::new();
    for byte in command("1.1") {
        push_fragment(&mut bytes, CT_CONTEXT, true, false, &[]);
        push_fragment(&mut bytes, CT_CONTEXT, true, false, &[byte]);
    }
    push_fragment(&mut bytes, CT_CONTEXT, true, true, &[]);
    for chunk in data.chunks(7) {
        push_fragment(&mut bytes, CT_CONTEXT, false, false, chunk);
    }
    push_fragment(&mut bytes, CT_CONTEXT, false, true, &[]);
    peer.send(&bytes).await;
    assert_eq!(peer.response().await.status, Status::SUCCESS);

    // Command and data in one PDU: the item parts of two PDUs under one header.
    let mut two = Vec::new();
    push_fragment(&mut two, CT_CONTEXT, true, true, &command("1.2"));
    let boundary = two.len();
    push_fragment(&mut two, CT_CONTEXT, false, true, &data);
    let items = [&two[6..boundary], &two[boundary + 6..]].concat();
    let one = [&[4, 0][..], &u32::try_from(items.len()).unwrap().to_be_bytes(), &items].concat();
    peer.send(&one).await;
    assert_eq!(peer.response().await.status, Status::SUCCESS);

    // The same on the wire in pieces that respect no boundary.
    let whole = message(CT_CONTEXT, &store("1.3"), &data);
    for piece in whole.chunks(11) {
        peer.send(piece).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(peer.response().await.status, Status::SUCCESS);
    peer.must_release().await;
    server.shelf.with(|c| {
        let got: Vec<_> = c
            .stored
            .iter()
            .map(|(claim, bytes)| (claim.sop_instance_uid.as_str(), bytes == &data))
            .collect();
        assert_eq!(got, [("1.1", true), ("1.2", true), ("1.3", true)]);
    });
    must_go_on(server).await;
}

#[tokio::test]
async fn messages_out_of_order_are_aborted() {
    let (log, server) = (Log::capture(), Server::start(|_| {}).await);
    let fragment = |context, is_command, bytes: &[u8]| {
        let mut out = Vec::new();
        push_fragment(&mut out, context, is_command, true, bytes);
        out
    };
    let response = echo().answer(Status::SUCCESS, "").encode();
    let release = medlsamd::net::pdu::RELEASE_RQ_BYTES.to_vec();
    let store_rq = fragment(CT_CONTEXT, true, &store("1.2.3").encode());
    let cases = [
        (
            fragment(77, true, &echo().encode()),
            INVALID_PARAMETER,
            "context 77 was not accepted",
        ),
        (
            fragment(CT_CONTEXT, false, b"data"),
            UNEXPECTED_PDU,
            "data set fragment where a command was due",
        ),
        (
            fragment(ECHO_CONTEXT, true, &response),
            UNEXPECTED_PDU,
            "a response where a request was due",
        ),
        (
            [store_rq.clone(), store_rq.clone()].concat(),
            UNEXPECTED_PDU,
            "command fragment inside a data set",
        ),
        (
            [store_rq.clone(), release].concat(),
            UNEXPECTED_PDU,
            "A-RELEASE-RQ inside a data set",
        ),
        (
            [store_rq, fragment(ECHO_CONTEXT, false, b"data")].concat(),
            INVALID_PARAMETER,
            "goes on in 1",
        ),
        (
            request("SENDER", "MEDLSAM").encode(),
            UNEXPECTED_PDU,
            "PDU type 1 inside an association",
        ),
        (vec![9, 0, 0, 0, 0, 0], UNRECOGNIZED_PDU, "PDU type 09H"),
    ];
    for (bytes, reason, cause) in cases {
        let mut peer = Rude::associate(server.address).await;
        peer.send(&bytes).await;
        peer.must_abort(reason).await;
        log.must_warn(&["aborted association", cause]);
    }
    assert_eq!(server.shelf.with(|c| c.stored.len()), 0);
    must_go_on(server).await;
}

#[tokio::test]
async fn operations_we_do_not_provide_are_answered_and_not_fatal() {
    let server = Server::start(|_| {}).await;
    let mut peer = Rude::associate(server.address).await;
    let find = Request {
        operation: Operation::Other { command_field: 0x0020 },
        message_id: 513,
        sop_class_uid: CT.into(),
        has_data: true,
    };
    peer.send(&message(CT_CONTEXT, &find, b"identifier")).await;
    let response = peer.response().await;
    assert_eq!((response.command_field, response.responded_to), (0x8020, 513));
    assert_eq!(response.status, Status::UNRECOGNIZED_OPERATION);
    let other_class = Request {
        sop_class_uid: "1.2.840.10008.5.1.4.1.1.4".into(),
        ..store("1.2.3")
    };
    peer.send(&message(CT_CONTEXT, &other_class, b"data")).await;
    assert_eq!(peer.response().await.status, Status::SOP_CLASS_NOT_SUPPORTED);
    peer.send(&message(ECHO_CONTEXT, &store("1.2.3"), b"data")).await;
    assert_eq!(peer.response().await.status, Status::UNRECOGNIZED_OPERATION);
    let cancel = Request {
        operation: Operation::Cancel,
        ..echo()
    };
    peer.send(&message(ECHO_CONTEXT, &cancel, &[])).await;
    peer.must_echo().await;
    peer.must_release().await;
    assert_eq!(server.shelf.with(|c| c.stored.len()), 0);
    must_go_on(server).await;
}

#[tokio::test]
async fn leaving_at_any_byte_is_survived() {
    let server = Server::start(|_| {}).await;
    let whole = [
        request("SENDER", "MEDLSAM").encode(),
        message(CT_CONTEXT, &store("1.2.3"), &[7; 60]),
    ]
    .concat();
    let abort = medlsamd::net::pdu::abort(medlsamd::net::pdu::AbortReason::NotSpecified);
    for end in (0..whole.len()).step_by(3) {
        let mut peer = Rude::connect(server.address).await;
        peer.send(&whole[..end]).await;
        // Cut inside a PDU, an A-ABORT is swallowed as its content; near the end it would complete the object.
        if end % 2 == 0 && end + abort.len() < whole.len() {
            peer.send(&abort).await;
        }
    }
    assert_eq!(
        server.shelf.with(|c| c.stored.len()),
        0,
        "no object is stored before its last byte"
    );
    must_go_on(server).await;
}

#[tokio::test]
async fn silence_in_an_association_ends_it() {
    let (log, server) = (Log::capture(), Server::start(|d| d.idle_timeout_s = 1).await);
    let mut idle = Rude::associate(server.address).await;
    let mut stuck = Rude::associate(server.address).await;
    let whole = message(CT_CONTEXT, &store("1.2.3"), &[7; 60]);
    stuck.send(&whole[..whole.len() - 10]).await;
    idle.must_abort(0).await;
    stuck.must_abort(0).await;
    log.must_warn(&["timed out after 1 s waiting for the next PDU"]);
    must_go_on(server).await;
}

#[tokio::test]
async fn a_caller_too_many_may_come_again() {
    let (log, server) = (Log::capture(), Server::start(|d| d.max_associations = 1).await);
    let mut first = Rude::associate(server.address).await;
    let refused = scu::echo(&server.dial("SENDER")).await.unwrap_err();
    assert!(
        matches!(&refused, ScuError::Unreachable { cause, .. } if cause.contains("local limit exceeded")),
        "{refused}"
    );
    log.must_warn(&["refused association", "all 1 associations are taken", "SENDER"]);
    first.must_echo().await;
    first.must_release().await;
    must_go_on(server).await;
}

#[tokio::test]
async fn a_failing_intake_is_answered_with_its_status_and_the_association_goes_on() {
    let server = Server::start(|d| d.max_object_mb = 1).await;
    let mut peer = Rude::associate(server.address).await;
    server.shelf.with(|c| c.full_after = Some(1000));
    peer.send(&message(CT_CONTEXT, &store("1.2.3"), &[7; 5000])).await;
    let response = peer.response().await;
    assert_eq!(
        (response.status, response.comment.as_str()),
        (Status::OUT_OF_RESOURCES, "out of resources: disk full")
    );
    server.shelf.with(|c| c.full_after = None);
    let mut too_large = Vec::new();
    push_fragment(&mut too_large, CT_CONTEXT, true, true, &store("1.2.4").encode());
    for index in 0..13 {
        push_fragment(&mut too_large, CT_CONTEXT, false, index == 12, &[0; 100_000]);
    }
    peer.send(&too_large).await;
    let response = peer.response().await;
    assert_eq!(response.status, Status::OUT_OF_RESOURCES);
    assert!(response.comment.contains("larger than 1 MiB"), "{}", response.comment);
    peer.send(&message(CT_CONTEXT, &store("1.2.5"), &[7; 5000])).await;
    assert_eq!(peer.response().await.status, Status::SUCCESS);
    peer.must_release().await;
    must_go_on(server).await;
}

#[tokio::test]
async fn an_endless_object_is_cut_off() {
    let (log, server) = (Log::capture(), Server::start(|d| d.max_object_mb = 1).await);
    let mut peer = Rude::associate(server.address).await;
    let mut bytes = Vec::new();
    push_fragment(&mut bytes, CT_CONTEXT, true, true, &store("1.2.4").encode());
    for _ in 0..25 {
        push_fragment(&mut bytes, CT_CONTEXT, false, false, &[0; 100_000]);
    }
    peer.send(&bytes).await;
    peer.must_abort(0).await;
    log.must_warn(&["does not end"]);
    must_go_on(server).await;
}

#[tokio::test]
async fn a_panic_in_one_association_harms_no_other() {
    let (log, server) = (Log::capture(), Server::start(|_| {}).await);
    let mut other = Rude::associate(server.address).await;
    let mut victim = Rude::associate(server.address).await;
    server.shelf.with(|c| c.panics = true);
    victim.send(&message(CT_CONTEXT, &store("1.2.3"), &[7; 60])).await;
    victim.must_abort(0).await;
    server.shelf.with(|c| c.panics = false);
    log.must_warn(&["our side failed", "taking objects in panicked"]);
    other.send(&message(CT_CONTEXT, &store("1.2.4"), &[7; 60])).await;
    assert_eq!(other.response().await.status, Status::SUCCESS);
    other.must_release().await;
    must_go_on(server).await;
}

#[tokio::test]
async fn a_release_is_granted_only_when_the_intake_has_closed() {
    let server = Server::start(|_| {}).await;
    let peer = Rude::associate(server.address).await;
    peer.must_release().await;
    assert_eq!(
        server.shelf.with(|c| (c.opened.len(), c.closed.len())),
        (1, 1),
        "closed before A-RELEASE-RP"
    );
    server.shelf.with(|c| c.cannot_close = true);
    let mut peer = Rude::associate(server.address).await;
    peer.send(&medlsamd::net::pdu::RELEASE_RQ_BYTES).await;
    peer.must_abort(0).await;
    server.stop().await;
}

#[tokio::test]
async fn stopping_cuts_off_who_never_ends_a_message() {
    let (log, server) = (Log::capture(), Server::start(|_| {}).await);
    let mut peer = Rude::associate(server.address).await;
    let whole = message(CT_CONTEXT, &store("1.2.3"), &[7; 60]);
    peer.send(&whole[..whole.len() - 10]).await;
    server.shelf.until(|c| c.begun == 1).await;
    let shelf = server.shelf.clone();
    server.stop().await;
    log.must_warn(&["cut off associations that did not end"]);
    assert_eq!(shelf.with(|c| (c.stored.len(), c.closed.len())), (0, 1));
    assert!(peer.hear().await.is_none());
}

#[tokio::test]
async fn stopping_finishes_the_message_under_way_and_aborts_the_idle() {
    let server = Server::start(|_| {}).await;
    server.shelf.with(|c| c.pause = Duration::from_millis(300));
    let mut idle = Rude::associate(server.address).await;
    let mut busy = Rude::associate(server.address).await;
    busy.send(&message(CT_CONTEXT, &store("1.2.3"), &[7; 60])).await;
    server.shelf.until(|c| c.begun == 1).await;
    let (shelf, address) = (server.shelf.clone(), server.address);
    let stopped = tokio::spawn(server.stop());
    idle.must_abort(0).await;
    assert_eq!(busy.response().await.status, Status::SUCCESS);
    busy.must_abort(0).await;
    stopped.await.unwrap();
    assert_eq!(
        shelf.with(|c| (c.stored.len(), c.opened.len(), c.closed.len())),
        (1, 2, 2)
    );
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "no longer listening"
    );
}
