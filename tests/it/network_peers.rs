//! The wire with software that is not ours: dcmtk as sender and as destination, real CT series.

use crate::support::data::{files, series};
use crate::support::network::{outgoing, run, to};
use crate::support::peers::{Receiver, peer};
use crate::support::shelf::{Server, dial};
use dicom::object::OpenFileOptions;
use medlsamd::dicom::status::Status;
use medlsamd::dicom::uid::Uid;
use medlsamd::net::scu::{self, Outgoing, ScuError};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const IMPLICIT: &str = "1.2.840.10008.1.2";

#[tokio::test]
async fn dcmtk_echoes_and_is_rejected_when_it_should_be() {
    let Some(echoscu) = peer("echoscu") else { return };
    let server = Server::start(|_| {}).await;
    assert!(
        run(&echoscu, to(server.address, "SENDER", "MEDLSAM"))
            .await
            .status
            .success()
    );
    for (calling, called, reason) in [("STRANGER", "MEDLSAM", "Calling AE"), ("SENDER", "OTHER", "Called AE")] {
        let output = run(&echoscu, to(server.address, calling, called)).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && text.contains(reason), "{text}");
    }
    server.stop().await;
}

/// Sends a series by storescu and compares the pixels, which no sender re-encodes.
async fn dcmtk_sends(name: &str, options: &[&str], transfer_syntax: &str) {
    let Some(folder) = series(name) else { return };
    dcmtk_sends_all(folder.path(), options, transfer_syntax).await;
}

async fn dcmtk_sends_all(folder: &Path, options: &[&str], transfer_syntax: &str) {
    let Some(storescu) = peer("storescu") else { return };
    let server = Server::start(|_| {}).await;
    let mut args: Vec<String> = options.iter().map(|&s| s.into()).collect();
    args.extend(["+sd".into(), "+r".into()]);
    args.extend(to(server.address, "SENDER", "MEDLSAM"));
    args.push(folder.display().to_string());
    let output = run(&storescu, args).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sent: BTreeMap<Uid, Vec<u8>> = files(folder)
        .iter()
        .map(|path| outgoing(path))
        .map(|(o, data)| (o.sop_instance_uid, data))
        .collect();
    server.shelf.with(|c| {
        assert_eq!(c.stored.len(), sent.len());
        for (claim, bytes) in &c.stored {
            assert_eq!(claim.transfer_syntax_uid.as_str(), transfer_syntax);
            assert_eq!(
                (claim.calling_ae.as_str(), claim.called_ae.as_str()),
                ("SENDER", "MEDLSAM")
            );
            let original = &sent[&claim.sop_instance_uid];
            let tail = original.len().min(bytes.len()).min(100_000);
            assert_eq!(
                bytes[bytes.len() - tail..],
                original[original.len() - tail..],
                "{}",
                claim.sop_instance_uid
            );
        }
    });
    server.stop().await;
}

#[tokio::test]
async fn dcmtk_sends_a_real_series() {
    dcmtk_sends("crlm_1006", &[], EXPLICIT).await;
}

/// Encoder with its options, what storescu proposes then, and the transfer syntax.
const SYNTAXES: &[(&str, &[&str], &str, &str)] = &[
    ("dcmconv", &["+ti"], "-xi", "1.2.840.10008.1.2"),
    ("dcmconv", &["+te"], "-xe", EXPLICIT),
    ("dcmconv", &["+tb"], "-xb", "1.2.840.10008.1.2.2"),
    ("dcmconv", &["+td"], "-xd", "1.2.840.10008.1.2.1.99"),
    ("dcmcrle", &[], "-xr", "1.2.840.10008.1.2.5"),
    ("dcmcjpeg", &["+e1"], "-xs", "1.2.840.10008.1.2.4.70"),
    ("dcmcjpls", &[], "-xt", "1.2.840.10008.1.2.4.80"),
];

#[tokio::test]
async fn dcmtk_sends_in_every_syntax_that_it_encodes() {
    let Some(folder) = series("crlm_1006") else { return };
    for (encoder, how, proposes, transfer_syntax) in SYNTAXES {
        let Some(encoder) = peer(encoder) else { return };
        let encoded = tempfile::tempdir().unwrap();
        for (n, slice) in files(folder.path()).iter().take(2).enumerate() {
            let mut args: Vec<String> = how.iter().map(|&s| s.into()).collect();
            args.extend([slice, &encoded.path().join(format!("{n}.dcm"))].map(|path| path.display().to_string()));
            let output = run(&encoder, args).await;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        dcmtk_sends_all(encoded.path(), &["-R", proposes], transfer_syntax).await;
    }
}

#[tokio::test]
async fn dcmtk_sends_a_jpeg_ls_series() {
    dcmtk_sends("acrin_nsclc_042", &["-xt"], "1.2.840.10008.1.2.4.80").await;
}

#[tokio::test]
async fn what_we_send_ourselves_arrives_byte_by_byte() {
    let Some(folder) = series("crlm_1006") else {
        return;
    };
    let server = Server::start(|_| {}).await;
    let sent: Vec<_> = files(folder.path()).iter().map(|path| outgoing(path)).collect();
    let objects: Vec<_> = sent.iter().map(|(object, _)| object.clone()).collect();
    let answers = scu::store(&server.dial("SENDER"), &objects).await.unwrap();
    assert_eq!(answers.len(), objects.len());
    assert!(
        answers.iter().all(|answer| matches!(answer, Ok(Status::SUCCESS))),
        "{answers:?}"
    );
    server.shelf.with(|c| {
        for ((claim, bytes), (object, data)) in c.stored.iter().zip(&sent) {
            assert_eq!(claim.sop_instance_uid, object.sop_instance_uid);
            assert!(bytes == data, "{} differs", object.path.display());
        }
        assert_eq!(c.closed.len(), 1);
    });
    server.stop().await;
}

#[tokio::test]
async fn each_object_has_its_own_answer() {
    let Some(folder) = series("crlm_1006") else {
        return;
    };
    let server = Server::start(|_| {}).await;
    let good = outgoing(&files(folder.path())[0]).0;
    let uid = |text| Uid::parse(text).unwrap();
    let objects = [
        Outgoing {
            path: "/nonexistent/file".into(),
            ..good.clone()
        },
        Outgoing {
            sop_class_uid: uid("1.2.840.10008.5.1.4.1.1.66.4"),
            ..good.clone()
        },
        Outgoing {
            sop_instance_uid: uid("1.2.3"),
            ..good.clone()
        },
        good.clone(),
    ];
    let answers = scu::store(&server.dial("SENDER"), &objects).await.unwrap();
    assert!(matches!(&answers[0], Err(ScuError::File { .. })), "{answers:?}");
    assert!(matches!(&answers[1], Err(ScuError::NotAccepted { .. })), "{answers:?}");
    assert!(
        matches!(&answers[2], Err(ScuError::File { cause, .. }) if cause.contains("SOP instance")),
        "{answers:?}"
    );
    assert!(matches!(&answers[3], Ok(Status::SUCCESS)), "{answers:?}");
    server.shelf.with(|c| c.full_after = Some(10));
    let answers = scu::store(&server.dial("SENDER"), &[good]).await.unwrap();
    assert!(matches!(&answers[0], Ok(Status::OUT_OF_RESOURCES)), "{answers:?}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = scu::echo(&dial("SENDER", &format!("MEDLSAM@127.0.0.1:{closed}")))
        .await
        .unwrap_err();
    assert!(matches!(nobody, ScuError::Unreachable { .. }), "{nobody}");
    server.stop().await;
}

fn dial_to(storescp: &Receiver) -> scu::Dial {
    dial("MEDLSAM", &format!("STORESCP@127.0.0.1:{}", storescp.port))
}

#[tokio::test]
async fn dcmtk_receives_what_we_send_byte_by_byte() {
    let (Some(folder), Some(storescp)) = (series("crlm_1006"), Receiver::start(&["-pdu", "4096"])) else {
        return;
    };
    let sent: Vec<_> = files(folder.path()).iter().map(|path| outgoing(path)).collect();
    let objects: Vec<_> = sent.iter().map(|(object, _)| object.clone()).collect();
    let answers = scu::store(&dial_to(&storescp), &objects).await.unwrap();
    assert!(
        answers.iter().all(|answer| matches!(answer, Ok(Status::SUCCESS))),
        "{answers:?}"
    );
    let sent: BTreeMap<_, _> = sent.into_iter().map(|(o, data)| (o.sop_instance_uid, data)).collect();
    let received = storescp.files();
    assert_eq!(received.len(), sent.len());
    for path in received {
        let (object, data) = outgoing(&path);
        assert!(sent[&object.sop_instance_uid] == data, "{} differs", path.display());
    }
}

#[tokio::test]
async fn a_peer_that_knows_only_implicit_vr_gets_implicit_vr() {
    let (Some(folder), Some(storescp)) = (series("crlm_1006"), Receiver::start(&["+xi"])) else {
        return;
    };
    let path = files(folder.path()).swap_remove(0);
    let object = outgoing(&path).0;
    assert_eq!(object.transfer_syntax_uid.as_str(), EXPLICIT);
    let answers = scu::store(&dial_to(&storescp), &[object]).await.unwrap();
    assert!(matches!(answers[..], [Ok(Status::SUCCESS)]), "{answers:?}");
    let received = storescp.files().swap_remove(0);
    let open = |path| OpenFileOptions::new().open_file(path).unwrap();
    let (ours, theirs) = (open(&path), open(&received));
    assert_eq!(theirs.meta().transfer_syntax.trim_end_matches('\0'), IMPLICIT);
    for tag in ["PixelData", "ImagePositionPatient", "PatientID", "RescaleIntercept"] {
        let value = |object: &dicom::object::DefaultDicomObject| {
            object.element_by_name(tag).unwrap().to_bytes().unwrap().to_vec()
        };
        assert_eq!(value(&ours), value(&theirs), "{tag}");
    }
}
