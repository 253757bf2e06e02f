//! Promise: a receiver that takes nothing compressed gets the same pixels and the same attributes, decoded on the way.
//!
//! dcmtk receives, by C-MOVE, C-GET and as a destination; dcmtk and pydicom decode the originals, and pydicom compares
//! (`tests/judge/plain.py`).

use crate::support::asking::{pynetdicom, run, said};
use crate::support::data::{self, series};
use crate::support::network::outgoing;
use crate::support::node::Node;
use crate::support::peers::{Receiver, peer, python};
use crate::support::shelf::dial;
use medlsamd::dicom::header::Instance;
use medlsamd::dicom::part10;
use medlsamd::dicom::status::Status;
use medlsamd::dicom::uid::Uid;
use medlsamd::intake::AssociationId;
use medlsamd::net::scu::{self, ScuError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

const IMPLICIT: &str = "1.2.840.10008.1.2";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const JPEG_LS: &str = "1.2.840.10008.1.2.4.80";

/// The original, decoded by the dcmtk tool that knows its transfer syntax; `None` where pydicom must.
fn by_dcmtk(original: &Path, syntax: &str, out: &Path) -> Option<PathBuf> {
    let tool = match syntax.strip_prefix("1.2.840.10008.1.2") {
        Some(".5") => "dcmdrle",
        Some(".4.80" | ".4.81") => "dcmdjpls",
        Some(".4.50" | ".4.57" | ".4.70") => "dcmdjpeg",
        _ => return None,
    };
    let output = Command::new(peer(tool)?).arg(original).arg(out).output().unwrap();
    assert!(
        output.status.success(),
        "{tool} {}: {}",
        original.display(),
        said(&output)
    );
    Some(out.to_owned())
}

/// Has the judge compare originals with what was received; the largest difference of a pixel by transfer syntax.
pub fn judge(python: &Path, syntax: &str, pairs: &[(PathBuf, PathBuf)]) -> BTreeMap<String, i64> {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(python);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/plain.py");
    command.arg(script).arg(syntax);
    for (n, (original, received)) in pairs.iter().enumerate() {
        let own = outgoing(original).0.transfer_syntax_uid;
        let decoded = by_dcmtk(original, own.as_str(), &folder.path().join(n.to_string()));
        command.args([original, received, &decoded.unwrap_or("-".into())]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    eprintln!("as {syntax}: {found}");
    assert_eq!(found["objects"], pairs.len());
    assert!(
        found["attributes"].as_u64().unwrap() > 20 * pairs.len() as u64,
        "{found}"
    );
    serde_json::from_value(found["worst"].clone()).unwrap()
}

/// Originals with what was received of them.
fn paired(originals: &[PathBuf], received: &[PathBuf]) -> Vec<(PathBuf, PathBuf)> {
    let uid = |path: &PathBuf| outgoing(path).0.sop_instance_uid;
    let received: BTreeMap<_, _> = received.iter().map(|path| (uid(path), path.clone())).collect();
    assert_eq!(received.len(), originals.len());
    originals
        .iter()
        .map(|path| (path.clone(), received[&uid(path)].clone()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jpeg_ls_series_is_retrieved_uncompressed() {
    let (Some(folder), Some(python)) = (series("acrin_nsclc_042"), python()) else {
        return;
    };
    let (Some(movescu), Some(getscu)) = (peer("movescu"), peer("getscu")) else {
        return;
    };
    let (implicit, explicit) = (Receiver::start(&["+xi"]).unwrap(), Receiver::start(&[]).unwrap());
    let targets = [("IMPLICIT", &implicit), ("EXPLICIT", &explicit)];
    let targets = targets.map(|(title, storescp)| format!("{title}@127.0.0.1:{}", storescp.port));
    let node = Node::start(&targets).await;
    let mut originals = data::files(folder.path());
    originals.truncate(20);
    for path in &originals {
        node.archive.intake.accept_file(path, AssociationId(1)).unwrap();
    }
    let instance = Instance::read(&originals[0]).unwrap();
    let series = instance.series_instance_uid.as_str();
    let key = format!("SeriesInstanceUID={series}");
    let port = node.port.to_string();
    let asked = ["-k", "QueryRetrieveLevel=SERIES", "-k", &key, "127.0.0.1", &port];
    let asking = ["-v", "-S", "-aet", "ASKER", "-aec", "MEDLSAM"];
    for (title, storescp, syntax) in [("IMPLICIT", &implicit, IMPLICIT), ("EXPLICIT", &explicit, EXPLICIT)] {
        let output = run(&movescu, &[&asking[..], &["-aem", title], &asked].concat()).await;
        assert!(
            said(&output).contains("Received Final Move Response (Success)"),
            "{}",
            said(&output)
        );
        let worst = judge(&python, syntax, &paired(&originals, &storescp.files()));
        assert_eq!(worst[JPEG_LS], 0);
    }
    let got = tempfile::tempdir().unwrap();
    let out = got.path().display().to_string();
    let output = run(&getscu, &[&asking[..], &["+B", "-od", &out], &asked].concat()).await;
    assert!(output.status.success(), "{}", said(&output));
    let worst = judge(&python, EXPLICIT, &paired(&originals, &data::files(got.path())));
    assert_eq!(worst[JPEG_LS], 0);
    let got = tempfile::tempdir().unwrap();
    let told = pynetdicom(&["get_implicit", &port, series, &got.path().display().to_string()]).await;
    assert_eq!(told, Some(json!({ "last": 0, "taken": originals.len() })));
    let worst = judge(&python, IMPLICIT, &paired(&originals, &data::files(got.path())));
    assert_eq!(worst[JPEG_LS], 0);
    node.stop().await;
}

/// Gives a file that is to be decoded the head that the intake gives it: some of these samples break the rules in theirs.
fn kept(path: &Path) -> bool {
    let mut file = std::fs::File::open(path).unwrap();
    let meta = part10::read_meta(&mut file).unwrap();
    let uid = |text: &str| Uid::parse(text).unwrap();
    let syntax = uid(&meta.transfer_syntax_uid);
    let mut bytes = part10::head(&uid(&meta.sop_class_uid), &uid(&meta.sop_instance_uid), &syntax, "", "").bytes;
    file.read_to_end(&mut bytes).unwrap();
    std::fs::write(path, bytes).unwrap();
    !matches!(syntax.as_str(), IMPLICIT | EXPLICIT)
}

/// A profile of storescp; without one it takes big endian, too.
const ONLY_EXPLICIT: &str = r"[[TransferSyntaxes]]
[Plain]
TransferSyntax1 = LittleEndianExplicit
[[PresentationContexts]]
[CT]
PresentationContext1 = CTImageStorage\Plain
PresentationContext2 = EnhancedCTImageStorage\Plain
[[Profiles]]
[Plain]
PresentationContexts = CT
";

/// Sends each file on its own, since they are the same object in other encodings; those that came, and what was said of the others.
async fn sent(files: &[PathBuf], storescp: &Receiver, to: &Path) -> (Vec<(PathBuf, PathBuf)>, Vec<String>) {
    let dial = dial("MEDLSAM", &format!("STORESCP@127.0.0.1:{}", storescp.port));
    let (mut came, mut refused) = (Vec::new(), Vec::new());
    for (n, path) in files.iter().enumerate() {
        let object = outgoing(path).0;
        match scu::store(&dial, std::slice::from_ref(&object))
            .await
            .unwrap()
            .remove(0)
        {
            Ok(Status::SUCCESS) => {
                let received = to.join(format!("{n}.dcm"));
                std::fs::rename(storescp.files().remove(0), &received).unwrap();
                came.push((path.clone(), received));
            }
            Err(ScuError::NotAccepted { .. }) => refused.push(object.transfer_syntax_uid.to_string()),
            other => panic!("{}: {other:?}", path.display()),
        }
    }
    (came, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_encoding_arrives_decoded_frame_by_frame_or_not_at_all() {
    let (Some(folder), Some(python)) = (data::folder(), python()) else {
        return;
    };
    let more = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for case in [
        "one_ct_all_transfer_syntaxes",
        "enhanced_ct_encapsulated_variants",
        "wg04_ct1_ct2_codecs",
    ] {
        let found = data::unpack(&folder.join(format!("odd/{case}.zip")), &more.path().join(case));
        files.extend(found.into_iter().filter(|path| kept(path)));
    }
    assert_eq!(files.len(), 36);
    let only_explicit = more.path().join("storescp.cfg");
    std::fs::write(&only_explicit, ONLY_EXPLICIT).unwrap();
    let only_explicit = only_explicit.display().to_string();
    for (options, syntax) in [(&["+xi"][..], IMPLICIT), (&["-xf", &only_explicit, "Plain"], EXPLICIT)] {
        let (to, storescp) = (tempfile::tempdir().unwrap(), Receiver::start(options).unwrap());
        let (came, refused) = sent(&files, &storescp, to.path()).await;
        // 12-bit JPEG and the progressive ones.
        let undecoded = |uid: &String| [".4.51", ".4.53", ".4.55"].iter().any(|end| uid.ends_with(end));
        assert!(refused.len() == 5 && refused.iter().all(undecoded), "{refused:?}");
        let worst = judge(&python, syntax, &came);
        assert_eq!(worst.len(), 10, "{worst:?}");
        for (own, off) in worst {
            // Decoders of lossy DCT may round differently.
            let most = if own.ends_with(".4.50") { 1 } else { 0 };
            assert!(off <= most, "{own}: off by {off}");
        }
    }
}
