//! Promise: a patient's name leaves as it came, byte for byte with its character set, in every object and back out of a PACS.

use crate::reports::judged;
use crate::support::daemon::free_port;
use crate::support::orthanc::Orthanc;
use crate::support::peers::{peer, python};
use crate::support::written::{POSES, files, identity, phantom, run, series_of, shapes, text, write_all};
use medlsamd::dicom::fields::Fields;
use medlsamd::dicom::object::Object;
use medlsamd::dicom::recode::implicit_vr;
use medlsamd::dicom::scan::Encoding;
use medlsamd::results::ResultObject;
use medlsamd::results::notice::{self, Notice};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A name as a scanner somewhere writes it.
struct Name {
    /// Specific Character Set; `None`: the element is absent.
    character_set: Option<&'static str>,
    bytes: &'static [u8],
    /// What it means.
    text: &'static str,
}

const fn name(set: &'static str, bytes: &'static [u8], text: &'static str) -> Name {
    Name {
        character_set: Some(set),
        bytes,
        text,
    }
}

/// PS3.5 annexes H, I, J and K give most of these.
const NAMES: &[Name] = &[
    name("ISO_IR 192", "Müller^Łucja".as_bytes(), "Müller^Łucja"),
    name("ISO_IR 101", b"M\xfcller^\xa3ucja", "Müller^Łucja"),
    name("ISO_IR 100", b"M\xfcller^J\xf6rg", "Müller^Jörg"),
    name(
        "ISO_IR 192",
        "Yamada^Tarou=山田^太郎=やまだ^たろう".as_bytes(),
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    name(
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    name(
        "ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    name(
        "GB18030",
        b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab",
        "Wang^XiaoDong=王^小东",
    ),
    name(
        "\\ISO 2022 IR 58",
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab",
        "Zhang^XiaoDong=张^小东",
    ),
    name(
        "\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    name(
        "ISO_IR 127",
        b"\xe2\xc8\xc7\xe6\xea^\xe4\xe6\xd2\xc7\xd1",
        "قباني^لنزار",
    ),
    name("ISO_IR 126", b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2", "Διονυσιος"),
    name("ISO_IR 138", b"\xf9\xf8\xe5\xef^\xe3\xe1\xe5\xf8\xe4", "שרון^דבורה"),
    name("ISO_IR 148", b"\xc7avu\xfeo\xf0lu^\xdd", "Çavuşoğlu^İ"),
    // Against the standard and common: Latin-1 that nobody declared.
    Name {
        character_set: None,
        bytes: b"M\xfcller^J\xf6rg",
        text: "Müller^Jörg",
    },
];

/// The one combination that Orthanc 1.10 decodes only in part; its bytes it keeps.
const ORTHANC_KEEPS_ONLY: &str = "ISO 2022 IR 13\\ISO 2022 IR 87";

const CHARACTER_SET: [u8; 6] = [0x08, 0, 0x05, 0, b'C', b'S'];
const PATIENT_NAME: [u8; 6] = [0x10, 0, 0x10, 0, b'P', b'N'];

/// Where an element of 16-bit length lies in a file: its start, and its value.
fn element(file: &[u8], head: [u8; 6]) -> Option<(usize, &[u8])> {
    let at = file.windows(6).position(|window| window == head)?;
    let length = usize::from(u16::from_le_bytes([file[at + 6], file[at + 7]]));
    Some((at, &file[at + 8..at + 8 + length]))
}

/// Replaces an element's value in place, or takes the element out.
fn splice(file: &mut Vec<u8>, head: [u8; 6], value: Option<&[u8]>) {
    let (at, old) = element(file, head).expect("the element");
    let end = at + 8 + old.len();
    let new = value.map_or_else(Vec::new, |value| {
        let mut padded = value.to_vec();
        padded.resize(value.len().next_multiple_of(2), b' ');
        [head.as_slice(), &(padded.len() as u16).to_le_bytes(), &padded].concat()
    });
    file.splice(at..end, new);
}

/// Everything we write about a series of that patient.
fn objects(name: &Name, n: usize, folder: &Path) -> Vec<(PathBuf, ResultObject)> {
    let ct = tempfile::tempdir().expect("a folder");
    phantom(ct.path(), &POSES[0]);
    for path in files(ct.path()) {
        let mut file = std::fs::read(&path).expect("a slice");
        splice(&mut file, CHARACTER_SET, name.character_set.map(str::as_bytes));
        splice(&mut file, PATIENT_NAME, Some(name.bytes));
        std::fs::write(&path, file).expect("written");
    }
    let series = series_of(ct.path());
    let seed = format!("name {n}");
    let mut objects = write_all(&series, &shapes(&series), &seed);
    let identity = identity(&seed);
    objects.extend(notice::KINDS.iter().map(|kind| {
        let notice = Notice {
            instance: &series.slices[0],
            identity: &identity,
            reason: "a test",
        };
        (kind.write)(&notice).expect("a notice")
    }));
    let put = |object: ResultObject| {
        let path = folder.join(format!("{n}_{}.dcm", object.kind));
        std::fs::write(&path, &object.part10).expect("written");
        (path, object)
    };
    objects.into_iter().map(put).collect()
}

/// The element's value without the padding to even length.
fn value(file: &[u8], head: [u8; 6]) -> Option<&[u8]> {
    element(file, head).map(|(_, value)| value.strip_suffix(b" ").unwrap_or(value))
}

#[test]
fn names_of_every_script_are_copied_byte_for_byte() {
    let python = python();
    for (n, name) in NAMES.iter().enumerate() {
        let folder = tempfile::tempdir().expect("a folder");
        let written = objects(name, n, folder.path());
        assert_eq!(written.len(), 6);
        for (_, object) in &written {
            let file = &object.part10;
            assert_eq!(
                value(file, PATIENT_NAME),
                Some(name.bytes),
                "{} {}",
                name.text,
                object.kind
            );
            let set = value(file, CHARACTER_SET).map(|set| String::from_utf8_lossy(set).into_owned());
            assert_eq!(set.as_deref(), name.character_set, "{} {}", name.text, object.kind);
        }
        if let Some(python) = &python {
            let paths: Vec<&Path> = written.iter().map(|(path, _)| path.as_path()).collect();
            let read = judged(python, "names", &paths);
            for said in read.as_array().expect("names") {
                assert_eq!(said, name.text, "{:?}", name.character_set);
            }
        }
    }
}

#[test]
fn names_come_back_out_of_orthanc() {
    let Some(storescu) = peer("storescu") else { return };
    let dicom_port = free_port();
    let Some(orthanc) = Orthanc::start(free_port(), dicom_port) else {
        return;
    };
    for (n, name) in NAMES.iter().enumerate() {
        let folder = tempfile::tempdir().expect("a folder");
        let written = objects(name, n, folder.path());
        let mut command = Command::new(&storescu);
        let port = dicom_port.to_string();
        command
            .env("TCP_NODELAY", "1")
            .args(["-R", "-aec", "ORTHANC", "127.0.0.1", &port]);
        let output = run(command.args(written.iter().map(|(path, _)| path)));
        assert!(output.status.success(), "{}", text(&output.stderr));
        for (_, object) in &written {
            let found = orthanc.request("POST", "/tools/lookup", object.sop_instance_uid.as_str().as_bytes());
            let found: serde_json::Value = serde_json::from_slice(&found).expect("JSON");
            let id = found[0]["ID"].as_str().expect("it has the object").to_owned();
            let file = orthanc.request("GET", &format!("/instances/{id}/file"), b"");
            assert_eq!(
                value(&file, PATIENT_NAME),
                Some(name.bytes),
                "{} {}",
                name.text,
                object.kind
            );
            let set = value(&file, CHARACTER_SET).map(|set| String::from_utf8_lossy(set).into_owned());
            assert_eq!(set.as_deref(), name.character_set, "{} {}", name.text, object.kind);
            let tags = orthanc.get(&format!("/instances/{id}/simplified-tags"));
            let decoded = tags["PatientName"] == name.text;
            let wanted = name.character_set != Some(ORTHANC_KEEPS_ONLY);
            assert_eq!(decoded, wanted, "{:?} {}: {tags}", name.character_set, object.kind);
        }
    }
}

/// For a peer that takes nothing but Implicit VR the objects are re-encoded on the way.
#[test]
fn names_keep_their_bytes_on_the_way_to_implicit_vr() {
    let folder = tempfile::tempdir().expect("a folder");
    for (n, name) in NAMES.iter().enumerate() {
        for (_, object) in objects(name, n, folder.path()) {
            let explicit = Object::open(&object.part10).expect("our object");
            let implicit = implicit_vr(&explicit.data_set).expect("implicit VR");
            let fields = Fields::whole(&implicit, Encoding::IMPLICIT_LE).expect("a data set");
            let value = fields.element(0x0010_0010).expect("a name").value;
            assert_eq!(
                value.trim_ascii_end(),
                name.bytes,
                "{:?} {}",
                name.character_set,
                object.key
            );
        }
    }
}
