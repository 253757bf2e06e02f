//! `medlsamd fetch` against an archive that is not ours.

use crate::support::asking::{BUC_CT, YAMADA_CT, off_thread, run};
use crate::support::daemon::free_port;
use crate::support::node::{BUC, CT, Node, SEG, YAMADA, file};
use crate::support::orthanc::Orthanc;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

const BUC_SEG: &str = "1.2.826.10.1.99";

/// `medlsamd fetch` against an archive on a port, for the daemon that the node is.
async fn fetch(node: &Node, archive_port: u16, args: &[&str]) -> (i32, String) {
    let config = node.folder.path().join("medlsamd.toml");
    let storage = node.archive.store.dir().display();
    let text = format!(
        "[dicom]\nlisten = \"127.0.0.1:{}\"\n[storage]\ndir = \"{storage}\"\n\
         [[peer]]\nae_title = \"ORTHANC\"\nhost = \"127.0.0.1\"\nmay = [\"store\"]\n\
         [[protocol]]\nname = \"all\"\nstructures = [\"all\"]\n\
         [[destination]]\nname = \"PACS\"\naddress = \"ORTHANC@127.0.0.1:{archive_port}\"\n",
        node.port
    );
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let all = [&["fetch", "--json", "--config", &config], args].concat();
    let output = run(Path::new(env!("CARGO_BIN_EXE_medlsamd")), &all).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (
        output.status.code().unwrap(),
        text + &String::from_utf8_lossy(&output.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn series_are_fetched_from_orthanc_by_accession_number_study_and_series() {
    let dicom_port = free_port();
    let node = Node::start(&[]).await;
    let port = node.port;
    let Some(orthanc) = off_thread(move || Orthanc::start(port, dicom_port)).await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (case, class, series, count) in [(BUC, CT, BUC_CT, 3), (BUC, SEG, BUC_SEG, 1), (YAMADA, CT, YAMADA_CT, 2)] {
        for number in 1..=count {
            let (uid, data_set) = case.object(class, series, number);
            let path = folder.path().join(format!("{uid}.dcm"));
            std::fs::write(&path, file(class, &uid, &data_set)).unwrap();
            tokio::task::block_in_place(|| orthanc.upload(&path));
        }
    }
    let list = folder.path().join("list");
    std::fs::write(&list, format!("# tonight\nA100\n1.2.826.20\n{BUC_CT} # again\n")).unwrap();
    let list = list.display().to_string();
    let (code, text) = fetch(&node, dicom_port, &["--list", &list]).await;
    assert_eq!(code, 0, "{text}");
    let said: Value = serde_json::from_str(&text[..=text.rfind(']').unwrap()]).unwrap_or_else(|_| panic!("{text}"));
    let rows: Vec<_> = said
        .as_array()
        .unwrap()
        .iter()
        .map(|row| json!([row["wish"], row["series_uid"], row["instances"], row["outcome"]]))
        .collect();
    let expected = [
        json!(["A100", BUC_CT, 3, "sent"]),
        json!(["1.2.826.20", YAMADA_CT, 2, "sent"]),
        json!([BUC_CT, BUC_CT, 3, "already_here"]),
    ];
    assert_eq!(rows, expected, "{text}");
    let jobs = node.archive.store.jobs(None, 9).unwrap();
    let counts: BTreeSet<u32> = jobs.iter().map(|job| job.instances).collect();
    assert_eq!((jobs.len(), counts), (2, BTreeSet::from([2, 3])));

    let (code, text) = fetch(&node, dicom_port, &["NOSUCH"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("not_found"), "{text}");
    let (code, text) = fetch(&node, free_port(), &["A100"]).await;
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("Connection refused"), "{text}");
    for (args, code) in [
        (vec!["A*"], 2),
        (vec![], 2),
        (vec!["A1", "--from", "VNA"], 2),
        (vec!["--list", "/nowhere"], 3),
    ] {
        assert_eq!(fetch(&node, dicom_port, &args).await.0, code, "{args:?}");
    }
    node.stop().await;
}
