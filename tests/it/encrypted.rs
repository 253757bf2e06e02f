//! TLS: who gets in, who does not and is told why in the log, certificates that are replaced, and software that is not ours.

use crate::commitment::commitment_of;
use crate::support::asking::{self, BUC_CT, off_thread, said};
use crate::support::certificates::{Authority, Certificate};
use crate::support::daemon::{Served, Setup, free_port};
use crate::support::data::{files, series};
use crate::support::log::Log;
use crate::support::network::{outgoing, run, to};
use crate::support::node::{BUC, Node};
use crate::support::orthanc::Orthanc;
use crate::support::peers::{Receiver, peer};
use crate::support::rude::{Rude, request};
use crate::support::shelf::{Server, dial, peer_entry};
use medlsamd::config::{Config, Dicom, Peer, Written};
use medlsamd::dicom::status::Status;
use medlsamd::net::scu::{self, Dial, PeerTls, ScuError};
use medlsamd::net::tls::Tls;
use medlsamd::scp;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

/// An authority and a server with a good certificate of it, on both ports.
async fn stage(change: impl FnOnce(&mut Dicom)) -> Option<(Authority, Arc<Tls>, Server)> {
    let authority = Authority::new()?;
    let own = authority.certificate("server", 100);
    let tls = Arc::new(Tls::open(&authority.settings(&own)).unwrap());
    let server = Server::start_with(change, Some(tls.clone())).await;
    Some((authority, tls, server))
}

/// How a peer with this certificate, who trusts this authority, calls the server.
fn encrypted(server: &Server, authority: &Authority, own: &Certificate) -> Dial {
    let tls = Tls::open(&authority.settings(own)).unwrap();
    Dial {
        tls: Some(PeerTls {
            certificates: Arc::new(tls),
            name: "localhost".into(),
        }),
        ..dial("SENDER", &format!("MEDLSAM@127.0.0.1:{}", server.encrypted().port()))
    }
}

fn unreachable(answer: Result<Status, ScuError>) -> String {
    match answer {
        Err(ScuError::Unreachable { cause, .. }) => cause,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn only_who_shows_a_good_certificate_is_heard() {
    let Some((authority, _, server)) = stage(|_| {}).await else {
        return;
    };
    let log = Log::capture();
    let good = authority.certificate("sender", 100);
    let mut call = encrypted(&server, &authority, &good);
    assert_eq!(scu::echo(&call).await.unwrap(), Status::SUCCESS);

    call.tls.as_mut().unwrap().name = "pacs.example".into();
    let cause = unreachable(scu::echo(&call).await);
    assert!(cause.contains("not valid for name"), "{cause}");

    let expired = authority.certificate("expired", 0);
    unreachable(scu::echo(&encrypted(&server, &authority, &expired)).await);
    log.must_warn(&["TLS", "xpired"]);

    let elsewhere = Authority::new().unwrap();
    let foreign = elsewhere.certificate("foreign", 100);
    // It trusts ours, and shows one of its own authority.
    unreachable(scu::echo(&encrypted(&server, &authority, &foreign)).await);
    log.must_warn(&["TLS", "UnknownIssuer"]);
    // The other way round: we are the ones that are not trusted.
    let cause = unreachable(scu::echo(&encrypted(&server, &elsewhere, &foreign)).await);
    assert!(cause.contains("UnknownIssuer"), "{cause}");

    if let Some(echoscu) = peer("echoscu") {
        let port = server.encrypted();
        let nothing_to_show = [authority.dcmtk(None), to(port, "SENDER", "MEDLSAM")].concat();
        assert!(!run(&echoscu, nothing_to_show).await.status.success());
        log.must_warn(&["TLS", "no certificates"]);
        let shown = [authority.dcmtk(Some(&good)), to(port, "SENDER", "MEDLSAM")].concat();
        assert!(run(&echoscu, shown).await.status.success());
        // A certificate is no permission.
        let stranger = [authority.dcmtk(Some(&good)), to(port, "STRANGER", "MEDLSAM")].concat();
        assert!(!run(&echoscu, stranger).await.status.success());
        log.must_warn(&["refused association", "STRANGER", "tls=true"]);
    }
    server.stop().await;
}

#[tokio::test]
async fn the_wrong_kind_of_speech_at_a_port_ends_soon_and_harms_nobody() {
    let Some((authority, _, server)) = stage(|d| d.artim_timeout_s = 1).await else {
        return;
    };
    let log = Log::capture();
    let good = authority.certificate("sender", 100);
    let mut plain = Rude::connect(server.encrypted()).await;
    plain.send(&request("SENDER", "MEDLSAM").encode()).await;
    // A TLS alert (type 21) and then the end, or the end alone: never an answer of DICOM.
    assert!(plain.hear_bytes(1).await.is_none_or(|first| first == [21]));
    log.must_warn(&["cannot set up a connection", "TLS"]);

    let mut silent = Rude::connect(server.encrypted()).await;
    assert!(silent.hear().await.is_none());
    log.must_warn(&["no TLS handshake in time"]);

    let mut wrong_port = encrypted(&server, &authority, &good);
    wrong_port.address.port = server.address.port();
    unreachable(scu::echo(&wrong_port).await);
    log.must_warn(&["a TLS handshake on the port without TLS"]);

    let call = encrypted(&server, &authority, &good);
    assert_eq!(scu::echo(&call).await.unwrap(), Status::SUCCESS);
    server.stop().await;
}

#[tokio::test]
async fn replaced_certificates_are_taken_up_and_bad_ones_are_not() {
    let Some((authority, tls, server)) = stage(|_| {}).await else {
        return;
    };
    let log = Log::capture();
    let good = authority.certificate("sender", 100);
    let call = encrypted(&server, &authority, &good);
    let days = || tls.validity()[0].days_left(jiff::Timestamp::now());
    assert_eq!(scu::echo(&call).await.unwrap(), Status::SUCCESS);
    assert!((99..=100).contains(&days()), "{}", days());

    let file = |name: &str| authority.folder.path().join(name);
    // A key that is not the certificate's: the old pair stays.
    std::fs::copy(&good.key, file("server.key")).unwrap();
    tls.refresh();
    log.must_warn(&[
        "cannot load the replaced TLS certificates",
        "server.key",
        "not the key of the certificate",
    ]);
    assert_eq!(scu::echo(&call).await.unwrap(), Status::SUCCESS);
    std::fs::write(file("server.pem"), "nonsense").unwrap();
    tls.refresh();
    log.must_warn(&["cannot load the replaced TLS certificates", "server.pem"]);
    std::fs::remove_file(file("server.pem")).unwrap();
    assert_eq!(scu::echo(&call).await.unwrap(), Status::SUCCESS);
    assert!((99..=100).contains(&days()));

    // The next association looks by itself.
    authority.certificate("server", 200);
    assert_eq!(scu::echo(&call).await.unwrap(), Status::SUCCESS);
    assert!((199..=200).contains(&days()), "{}", days());
    // Another authority: who was trusted no longer is.
    let other = Authority::new().unwrap();
    std::fs::copy(other.ca(), authority.ca()).unwrap();
    unreachable(scu::echo(&call).await);
    server.stop().await;
}

#[tokio::test]
async fn a_caller_too_many_is_told_so_within_its_encryption() {
    let Some(authority) = Authority::new() else { return };
    let own = authority.certificate("server", 100);
    let tls = Arc::new(Tls::open(&authority.settings(&own)).unwrap());
    let server = Server::start_with(|d| d.max_associations = 1, Some(tls)).await;
    let _first = Rude::associate(server.address).await;
    let cause = unreachable(scu::echo(&encrypted(&server, &authority, &own)).await);
    assert!(cause.contains("local limit exceeded"), "{cause}");
    server.stop().await;
}

#[tokio::test]
async fn dcmtk_sends_and_receives_encrypted() {
    let (Some(folder), Some(storescu)) = (series("crlm_1006"), peer("storescu")) else {
        return;
    };
    let Some((authority, _, server)) = stage(|_| {}).await else {
        return;
    };
    let good = authority.certificate("sender", 100);
    let paths = files(folder.path());
    let sent: Vec<_> = paths.iter().map(|path| outgoing(path)).collect();
    let mut args = authority.dcmtk(Some(&good));
    args.extend(["+sd".into(), "+r".into()]);
    args.extend(to(server.encrypted(), "SENDER", "MEDLSAM"));
    args.push(folder.path().display().to_string());
    let output = run(&storescu, args).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.shelf.with(|c| c.stored.len()), sent.len());

    // Ours to ours: the bytes of the files, whatever the size of the TLS records.
    let objects: Vec<_> = sent.iter().map(|(object, _)| object.clone()).collect();
    let answers = scu::store(&encrypted(&server, &authority, &good), &objects)
        .await
        .unwrap();
    assert!(answers.iter().all(|a| matches!(a, Ok(Status::SUCCESS))), "{answers:?}");
    server.shelf.with(|c| {
        let ours = &c.stored[sent.len()..];
        assert_eq!(ours.len(), sent.len());
        assert!(ours.iter().zip(&sent).all(|((_, bytes), (_, data))| bytes == data));
    });

    // storescp wants a certificate too, and we show one.
    let theirs = authority.certificate("pacs", 100);
    let arguments = authority.dcmtk(Some(&theirs));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let storescp = Receiver::start(&arguments).unwrap();
    let call = Dial {
        address: format!("STORESCP@127.0.0.1:{}", storescp.port).parse().unwrap(),
        ..encrypted(&server, &authority, &good)
    };
    let answers = scu::store(&call, &objects).await.unwrap();
    assert!(answers.iter().all(|a| matches!(a, Ok(Status::SUCCESS))), "{answers:?}");
    assert_eq!(storescp.files().len(), sent.len());
    let expired = authority.certificate("gone", 0);
    let arguments = authority.dcmtk(Some(&expired));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let storescp = Receiver::start(&arguments).unwrap();
    let call = Dial {
        address: format!("STORESCP@127.0.0.1:{}", storescp.port).parse().unwrap(),
        ..encrypted(&server, &authority, &good)
    };
    let cause = unreachable(scu::echo(&call).await);
    assert!(cause.contains("xpired"), "{cause}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orthanc_pushes_and_takes_encrypted() {
    let Some(folder) = series("crlm_1006") else { return };
    let Some((authority, _, server)) = stage(|_| {}).await else {
        return;
    };
    let own = authority.certificate("orthanc", 100);
    let dicom_port = free_port();
    let settings = json!({
        "DicomTlsEnabled": true, "DicomTlsRemoteCertificateRequired": true,
        "DicomTlsCertificate": own.certificate, "DicomTlsPrivateKey": own.key, "DicomTlsTrustedCertificates": authority.ca(),
        "DicomModalities": { "medlsam": {
            "AET": "MEDLSAM", "Host": "127.0.0.1", "Port": server.encrypted().port(), "UseDicomTls": true, "LocalAet": "SENDER",
        } },
    });
    let Some(orthanc) = Orthanc::start_with(server.encrypted().port(), dicom_port, &settings) else {
        return;
    };
    let good = authority.certificate("sender", 100);
    let sent: Vec<_> = files(folder.path()).iter().map(|path| outgoing(path).0).collect();
    let call = Dial {
        address: format!("ORTHANC@127.0.0.1:{dicom_port}").parse().unwrap(),
        ..encrypted(&server, &authority, &good)
    };
    let answers = scu::store(&call, &sent).await.unwrap();
    assert!(answers.iter().all(|a| matches!(a, Ok(Status::SUCCESS))), "{answers:?}");
    let orthanc = tokio::task::spawn_blocking(move || {
        orthanc.push_ct();
        orthanc
    });
    let orthanc = orthanc.await.unwrap();
    assert_eq!(server.shelf.with(|c| c.stored.len()), sent.len());
    drop(orthanc);
    server.stop().await;
}

/// Calls to `[[peer]]`s go through TLS where their entries say so: the sub-operations of a C-MOVE, and reports of storage commitment.
#[tokio::test(flavor = "multi_thread")]
async fn peers_are_called_encrypted_where_their_entry_says_so() {
    let (Some(authority), Some(movescu)) = (Authority::new(), peer("movescu")) else {
        return;
    };
    let (own, theirs) = (authority.certificate("server", 100), authority.certificate("peer", 100));
    let arguments = authority.dcmtk(Some(&theirs));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let storescp = Receiver::start(&arguments).unwrap();
    let orthanc_port = free_port();
    let entry = |ae_title: &str, port, tls_name: &str| Peer {
        tls: true,
        tls_name: tls_name.into(),
        port,
        ..peer_entry(ae_title, "127.0.0.1", &[])
    };
    let mut written = Written::example();
    written.dicom.ae_title = "MEDLSAM".into();
    written.dicom.tls = authority.settings(&own);
    written.peer = vec![
        entry("ORTHANC", orthanc_port, "localhost"),
        entry("STORESCP", storescp.port, ""),
        entry("ELSEWHERE", storescp.port, "pacs.example"),
    ];
    let config = Config::resolve(written).unwrap();
    let tls = Tls::of(&config).unwrap().expect("a peer has tls");
    let node = Node::start_with(scp::targets(&config, Some(&tls))).await;
    node.receive(&BUC, BUC_CT, 3);

    let (port, key) = (node.port.to_string(), format!("SeriesInstanceUID={BUC_CT}"));
    let mut moved = Vec::new();
    for to in ["STORESCP", "ELSEWHERE"] {
        let mut args = vec!["-v", "-S", "-aet", "ASKER", "-aec", "MEDLSAM", "-aem", to];
        args.extend(["-k", "QueryRetrieveLevel=SERIES", "-k", &key, "127.0.0.1", &port]);
        moved.push(said(&asking::run(&movescu, &args).await));
        assert_eq!(storescp.files().len(), 3, "{to}: {moved:?}");
    }
    assert!(moved[0].contains("Received Final Move Response (Success)"), "{moved:?}");
    assert!(
        !moved[1].contains("Received Final Move Response (Success)"),
        "{moved:?}"
    );

    let settings = json!({
        "DicomTlsEnabled": true, "DicomTlsRemoteCertificateRequired": true,
        "DicomTlsCertificate": theirs.certificate, "DicomTlsPrivateKey": theirs.key, "DicomTlsTrustedCertificates": authority.ca(),
    });
    let node_port = node.port;
    let started = off_thread(move || Orthanc::start_with(node_port, orthanc_port, &settings)).await;
    let Some(orthanc) = started.map(Arc::new) else { return };
    assert_eq!(commitment_of(&orthanc, "1.2.826.10.1.1").await["Status"], "Success");
    node.stop().await;
}

/// The body of an HTTP answer.
fn get(port: u16, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn check_counts_the_days_and_the_daemon_takes_up_what_is_replaced() {
    let Some(authority) = Authority::new() else { return };
    let own = authority.certificate("server", 10);
    let (port, web) = (free_port(), free_port());
    let config = format!(
        "[web]\nlisten = \"127.0.0.1:{web}\"\n[[peer]]\nae_title = \"any\"\nhost = \"any\"\nmay = []\n[[protocol]]\nname = \"a\"\nstructures = [\"all\"]\n\
         [dicom.tls]\nlisten = \"127.0.0.1:{port}\"\ncertificate = \"{}\"\nkey = \"{}\"\nca = \"{}\"\n",
        own.certificate.display(),
        own.key.display(),
        authority.ca().display()
    );
    let mut served = Served::prepare(&Setup {
        config: &config,
        environment: &[],
    });
    let check = |served: &Served| -> Vec<Value> {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_medlsamd"))
            .args(["check", "--json", "--config"])
            .arg(served.config_path())
            .output()
            .unwrap();
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let about = |f: &Value| f["subject"].as_str().unwrap().starts_with("certificate ");
        findings.into_iter().filter(about).collect()
    };
    let text = |finding: &Value| finding["text"].as_str().unwrap().to_owned();
    let findings = check(&served);
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(
        findings[0]["ok"] == true && text(&findings[0]).contains("WARNING, ends in 9 days"),
        "{findings:?}"
    );
    assert!(
        findings[1]["ok"] == true && text(&findings[1]).contains("valid for 399 days"),
        "{findings:?}"
    );

    served.launch(&[]);
    let metrics = get(web, "/metrics");
    let days = format!(
        "medlsamd_certificate_days_left{{file=\"{}\"}} 9\n",
        own.certificate.display()
    );
    assert!(metrics.contains(&days), "{metrics}");
    let hang_up = |served: &Served| {
        let pid = served.pid().to_string();
        assert!(
            std::process::Command::new("kill")
                .args(["-HUP", &pid])
                .status()
                .unwrap()
                .success()
        );
    };
    std::fs::write(&own.key, "nonsense").unwrap();
    hang_up(&served);
    let patience = Duration::from_secs(10);
    served.wait("a word on the bad key", patience, |s| {
        s.log().contains("the old ones stay in use")
    });
    assert_eq!(text(&check(&served)[0]), "no private key in PEM: NoItemsFound");
    authority.certificate("server", 0);
    hang_up(&served);
    served.wait("the new one", patience, |s| {
        s.log().contains("loaded replaced TLS certificates")
    });
    let findings = check(&served);
    assert!(
        findings[0]["ok"] == false && text(&findings[0]).starts_with("expired at "),
        "{findings:?}"
    );
    assert!(served.is_running() && served.terminate());
}
