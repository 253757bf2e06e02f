//! The DICOM Conformance Statement in the layout of PS3.2 annex N, made from the tables that the code runs on.
//!
//! Services come from `scp::SERVICES`, what we send from `results::KINDS` and `notice::KINDS`, query keys from `query::keys`, limits from
//! the configuration's defaults: a service that is added there is in the statement.

use crate::commitment::PUSH_MODEL;
use crate::config::{Permission, Written};
use crate::dicom::part10::IMPLICIT_VR_LITTLE_ENDIAN;
use crate::dicom::part10::{EXPLICIT_VR_LITTLE_ENDIAN, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};
use crate::dicom::status::Status;
use crate::intake::IntakeError;
use crate::net::pdu::{APPLICATION_CONTEXT, Reject};
use crate::net::requests::{STUDY_ROOT_FIND, STUDY_ROOT_MOVE};
use crate::query;
use crate::results;
use crate::results::notice;
use crate::scp::{Answer, SERVICES, Service};
use dicom::core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom::dictionary_std::StandardDataDictionary;
use dicom::encoding::TransferSyntaxIndex;
use dicom::transfer_syntax::TransferSyntaxRegistry;
use std::collections::BTreeMap;

/// Names of PS3.4 and PS3.6 for the SOP classes that the tables hold; a test finds one that is missing.
#[rustfmt::skip] // one line each, so that the table reads as a table
const NAMES: &[(&str, &str)] = &[
    ("1.2.840.10008.1.1", "Verification"),
    ("1.2.840.10008.1.20.1", "Storage Commitment Push Model"),
    ("1.2.840.10008.5.1.4.1.1.2", "CT Image Storage"),
    ("1.2.840.10008.5.1.4.1.1.2.1", "Enhanced CT Image Storage"),
    ("1.2.840.10008.5.1.4.1.1.2.2", "Legacy Converted Enhanced CT Image Storage"),
    ("1.2.840.10008.5.1.4.1.1.7", "Secondary Capture Image Storage"),
    ("1.2.840.10008.5.1.4.1.1.66.4", "Segmentation Storage"),
    ("1.2.840.10008.5.1.4.1.1.66.7", "Label Map Segmentation Storage"),
    ("1.2.840.10008.5.1.4.1.1.88.11", "Basic Text SR Storage"),
    ("1.2.840.10008.5.1.4.1.1.88.22", "Enhanced SR Storage"),
    ("1.2.840.10008.5.1.4.1.1.481.3", "RT Structure Set Storage"),
    ("1.2.840.10008.5.1.4.1.2.1.1", "Patient Root Query/Retrieve Information Model - FIND"),
    ("1.2.840.10008.5.1.4.1.2.1.2", "Patient Root Query/Retrieve Information Model - MOVE"),
    ("1.2.840.10008.5.1.4.1.2.1.3", "Patient Root Query/Retrieve Information Model - GET"),
    ("1.2.840.10008.5.1.4.1.2.2.1", "Study Root Query/Retrieve Information Model - FIND"),
    ("1.2.840.10008.5.1.4.1.2.2.2", "Study Root Query/Retrieve Information Model - MOVE"),
    ("1.2.840.10008.5.1.4.1.2.2.3", "Study Root Query/Retrieve Information Model - GET"),
];

/// The name of a SOP class or, where the table has none, its UID.
fn class_name(uid: &str) -> &str {
    NAMES
        .iter()
        .find(|(known, _)| *known == uid)
        .map_or(uid, |(_, name)| *name)
}

fn syntax_name(uid: &str) -> String {
    TransferSyntaxRegistry
        .get(uid)
        .map_or_else(|| uid.to_owned(), |syntax| syntax.name().to_owned())
}

/// SOP classes that we use at others, and why.
fn used() -> Vec<(&'static str, String)> {
    let mut used = vec![("1.2.840.10008.1.1", "`medlsamd check --online`".to_owned())];
    let mut stored: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for kind in results::KINDS {
        stored
            .entry(kind.sop_class_uid)
            .or_default()
            .push(format!("result `{}`", kind.name));
    }
    for kind in notice::KINDS {
        stored
            .entry(kind.sop_class_uid)
            .or_default()
            .push(format!("notice `{}`", kind.name));
    }
    used.extend(stored.into_iter().map(|(uid, why)| (uid, why.join(", "))));
    used.push((PUSH_MODEL, "destinations with `commit = true`".into()));
    used.push((STUDY_ROOT_FIND, "`medlsamd fetch`".into()));
    used.push((STUDY_ROOT_MOVE, "`medlsamd fetch`".into()));
    used
}

/// What `--json` prints.
pub fn facts() -> serde_json::Value {
    let provided: Vec<_> = SERVICES
        .iter()
        .map(|service| {
            serde_json::json!({
                "service": service.name, "sop_classes": service.abstract_syntaxes,
                "transfer_syntaxes": service.transfer_syntaxes, "permission": service.permission,
            })
        })
        .collect();
    let used: Vec<_> = used()
        .into_iter()
        .map(|(uid, why)| serde_json::json!({ "sop_class": uid, "name": class_name(uid), "for": why }))
        .collect();
    serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"), "implementation_class_uid": IMPLEMENTATION_CLASS_UID,
        "implementation_version_name": IMPLEMENTATION_VERSION_NAME, "provides": provided, "uses": used,
    })
}

/// The statement, in Markdown.
pub fn statement() -> String {
    [
        overview(),
        introduction(),
        model(),
        policies(),
        initiation(),
        acceptance(),
        storage(),
        queries(),
        commitment(),
        network(),
        configuration(),
        media_and_characters(),
        security(),
        annexes(),
    ]
    .join("\n")
}

fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let header: Vec<String> = header.iter().map(|cell| cell.to_string()).collect();
    let rule = vec!["---".to_owned(); header.len()];
    let body: String = rows.into_iter().map(|row| line(&row)).collect();
    line(&header) + &line(&rule) + &body
}

fn overview() -> String {
    let provided = SERVICES.iter().flat_map(|service| {
        let row = |uid: &&str| vec![class_name(uid).to_owned(), (*uid).to_owned(), "no".into(), "yes".into()];
        service.abstract_syntaxes.iter().map(row).collect::<Vec<_>>()
    });
    let mut rows: Vec<Vec<String>> = provided.collect();
    for (uid, _) in used() {
        match rows.iter_mut().find(|row| row[1] == uid) {
            Some(row) => row[2] = "yes".into(),
            None => rows.push(vec![class_name(uid).into(), uid.into(), "yes".into(), "no".into()]),
        }
    }
    format!(
        "# DICOM Conformance Statement: medlsamd {}\n\n\
         ## 1 Conformance statement overview\n\n\
         medlsamd takes CT series by C-STORE, finds and outlines organs, and sends Segmentations and RT Structure Sets, and on request\n\
         structured reports and pictures, to configured destinations. What it received and made can be queried and retrieved.\n\
         Objects it makes are marked as made by an algorithm and not reviewed; RT Structure Sets are UNAPPROVED.\n\n\
         Table 1-1: network services\n\n{}\n\
         No media storage services.\n",
        env!("CARGO_PKG_VERSION"),
        table(&["SOP class", "UID", "user (SCU)", "provider (SCP)"], rows)
    )
}

fn introduction() -> String {
    "## 2 Introduction\n\n\
     Audience: those who connect medlsamd with scanners, archives, viewers and planning systems. This statement alone does not\n\
     guarantee interoperation; compare it with your partner's statement and test. Terms are those of the DICOM standard, 2026.\n\
     It is printed by `medlsamd conformance` from the tables the program runs on.\n"
        .into()
}

fn model() -> String {
    "## 3 Networking\n\n\
     ### 3.1 Implementation model\n\n\
     #### 3.1.1 Application data flow\n\n\
     One application entity, listening under two titles: the main one, and a teaching title for CT, RT Structure Sets and\n\
     Segmentations to learn from. Received CT becomes a job; the results of a job go to the destinations of its protocol.\n\n\
     #### 3.1.2 Functional definition\n\n\
     C-STORE success is answered after the bytes are on disk under their final name and synced. A series is worked on when it is\n\
     gap-free and its association has ended, or after a quiet period. A slice that comes later makes a new result, with new UIDs, that\n\
     names the one it supersedes.\n\n\
     #### 3.1.3 Sequencing of real-world activities\n\n\
     Receive CT → assemble the series → locate and outline → write and prove results → store them at the destinations → ask for\n\
     storage commitment where configured. Failed sends are repeated with growing pauses, restarts included.\n"
        .into()
}

fn policies() -> String {
    let dicom = Written::default().dicom;
    let rows = [
        ["Application context", APPLICATION_CONTEXT],
        ["Implementation class UID", IMPLEMENTATION_CLASS_UID],
        ["Implementation version name", IMPLEMENTATION_VERSION_NAME],
        [
            "Asynchronous operations window",
            "not supported: one operation at a time",
        ],
        ["Outstanding operations", "1"],
    ];
    let mut rows: Vec<Vec<String>> = rows.map(|row| row.map(str::to_owned).to_vec()).to_vec();
    for (name, value) in [
        (
            "Largest PDU received (`dicom.max_pdu`)",
            format!("{} bytes", dicom.max_pdu),
        ),
        (
            "Associations at once (`dicom.max_associations`)",
            dicom.max_associations.to_string(),
        ),
        (
            "of one host (`dicom.max_associations_per_host`)",
            dicom.max_associations_per_host.to_string(),
        ),
        (
            "Associations initiated at once",
            "one per destination for results, besides those of C-MOVE".into(),
        ),
        (
            "ARTIM timer (`dicom.artim_timeout_s`)",
            format!("{} s", dicom.artim_timeout_s),
        ),
        (
            "Silence in an association (`dicom.idle_timeout_s`)",
            format!("{} s", dicom.idle_timeout_s),
        ),
        (
            "Largest object (`dicom.max_object_mb`)",
            format!("{} MiB", dicom.max_object_mb),
        ),
    ] {
        rows.push(vec![name.into(), value]);
    }
    format!(
        "### 3.2 AE specification\n\n\
         #### 3.2.1 Association policies\n\nDefaults; settings in parentheses.\n\n{}\n\
         User identity and extended negotiation items that are not known are tolerated and not answered.\n",
        table(&["property", "value"], rows)
    )
}

fn initiation() -> String {
    let rows = used().into_iter().map(|(uid, why)| {
        let stored = results::KINDS.iter().any(|kind| kind.sop_class_uid == uid)
            || notice::KINDS.iter().any(|kind| kind.sop_class_uid == uid);
        let syntaxes = match stored {
            true => "that of the object; else Explicit or Implicit VR Little Endian",
            false => "Explicit VR Little Endian, Implicit VR Little Endian",
        };
        vec![class_name(uid).to_owned(), uid.to_owned(), syntaxes.into(), why]
    });
    format!(
        "#### 3.2.2 Association initiation\n\n\
         For results, storage commitment, fetching, verification, and the sub-operations of C-MOVE (any SOP class that is stored, in the\n\
         transfer syntax it was received in, or uncompressed). Each object gets a presentation context for each transfer syntax it can be\n\
         sent in: its own, Explicit VR Little Endian, Implicit VR Little Endian (what was received as Implicit VR: that alone).\n\n{}\n\
         Answers to a C-STORE we send: 0000, warnings B000, B006, B007 and 0111 (the receiver has it already) count as stored; others\n\
         and a lost connection are tried again later, with growing pauses.\n",
        table(&["SOP class", "UID", "transfer syntaxes", "for"], rows)
    )
}

fn acceptance() -> String {
    let may = |service: &Service| match service.permission {
        None => "every listed peer".to_owned(),
        Some(permission) => format!("`{}`", permission_name(permission)),
    };
    let rows = SERVICES.iter().map(|service| {
        let classes: Vec<String> = service
            .abstract_syntaxes
            .iter()
            .map(|uid| format!("{} ({uid})", class_name(uid)))
            .collect();
        let syntaxes: Vec<String> = service.transfer_syntaxes.iter().map(|uid| syntax_name(uid)).collect();
        vec![
            service.name.to_owned(),
            classes.join("; "),
            syntaxes.join("; "),
            may(service),
        ]
    });
    let rejections = [
        (Reject::CALLED_AE_NOT_RECOGNIZED, "another called AE title than ours"),
        (
            Reject::CALLING_AE_NOT_RECOGNIZED,
            "no `[[peer]]` has this title, or it has another host",
        ),
        (Reject::APPLICATION_CONTEXT_NOT_SUPPORTED, "another application context"),
        (Reject::PROTOCOL_VERSION_NOT_SUPPORTED, "another protocol version"),
        (
            Reject::LOCAL_LIMIT_EXCEEDED,
            "all places are taken, or all of this host: try again",
        ),
    ];
    let rejections = rejections.map(|(reject, when)| {
        let code = format!("{}, {}, {}", reject.result, reject.source, reject.reason);
        vec![code, reject.to_string(), when.to_owned()]
    });
    format!(
        "#### 3.2.3 Association acceptance\n\n\
         Callers are known by calling AE title and host; a `[[peer]]` says what each may do. The first of the transfer syntaxes below\n\
         that a context proposes is accepted. SCP/SCU role selection is accepted where C-GET and storage commitment need it.\n\n{}\n\
         Rejections (result, source, reason):\n\n{}",
        table(
            &["service", "SOP classes", "transfer syntaxes, best first", "who may"],
            rows
        ),
        table(&["code", "meaning", "when"], rejections)
    )
}

fn permission_name(permission: Permission) -> String {
    serde_json::to_value(permission)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn status_rows(rows: &[(Status, &str)]) -> String {
    table(
        &["status", "meaning"],
        rows.iter()
            .map(|(status, meaning)| vec![status.to_string(), (*meaning).to_owned()]),
    )
}

fn storage() -> String {
    let of = |error: IntakeError| error.status();
    let rows = [
        (Status::SUCCESS, "stored: on disk under its final name, synced"),
        (
            of(IntakeError::OutOfResources(String::new())),
            "disk full or failing, or the object is too large; try again",
        ),
        (
            of(IntakeError::Mismatch(String::new())),
            "the data set is not what the command said it is, or no CT in spite of its SOP class",
        ),
        (
            of(IntakeError::CannotUnderstand(String::new())),
            "the data set cannot be read, or it is cut off",
        ),
        (
            of(IntakeError::Duplicate(String::new())),
            "another object with this SOP Instance UID is here already, and stays",
        ),
        (
            Status::SOP_CLASS_NOT_SUPPORTED,
            "not the SOP class of the presentation context",
        ),
    ];
    format!(
        "#### 3.2.4 Storage as provider\n\n\
         Level 2 (full): the data set is kept bit for bit, private attributes included. The same object again is a success and changes\n\
         nothing. Under the teaching title CT is kept to learn from, and RT Structure Sets and Segmentations become templates.\n\n{}",
        status_rows(&rows)
    )
}

fn queries() -> String {
    let rows = query::keys().map(|(tag, level)| {
        let name = StandardDataDictionary.by_tag(tag).map_or("", |entry| entry.alias());
        vec![
            name.to_owned(),
            format!("({:04X},{:04X})", tag.group(), tag.element()),
            level.as_str().to_owned(),
        ]
    });
    let find = [
        (Status::SUCCESS, "all matches were returned"),
        (Status::PENDING, "a match; every key asked for is supported"),
        (
            Status::PENDING_KEYS_IGNORED,
            "a match; some optional keys are not supported",
        ),
        (Status::CANCELLED, "cancelled by C-CANCEL"),
        (
            Status::DATA_SET_MISMATCH,
            "the identifier does not fit the level or the model, or matches too much",
        ),
        (Status::OUT_OF_RESOURCES, "the archive cannot answer now"),
        (Status::CANNOT_UNDERSTAND, "the identifier cannot be read"),
    ];
    let retrieve = [
        (Status::SUCCESS, "all sub-operations succeeded"),
        (Status::PENDING, "sub-operations are going on; counts are given"),
        (Status::CANCELLED, "cancelled by C-CANCEL"),
        (
            Status::DESTINATION_UNKNOWN,
            "C-MOVE to an AE title that is neither a destination nor a peer with a port",
        ),
        (Status::CANNOT_COUNT, "the objects to send cannot be listed"),
        (Status::CANNOT_PERFORM, "no sub-operation could be performed"),
        (
            Status::SOME_FAILED,
            "some sub-operations failed; Failed SOP Instance UID List says which",
        ),
        (
            Status::DATA_SET_MISMATCH,
            "the identifier does not fit the level or the model",
        ),
    ];
    format!(
        "#### 3.2.5 Query and retrieval as provider\n\n\
         Patient Root and Study Root, over received series and over results that nothing supersedes. Single values, lists of UIDs,\n\
         wildcards and ranges of dates and times are matched; names regardless of letter case. Relational queries are always supported;\n\
         date and time are matched as one moment when that was negotiated; no fuzzy matching. Objects are sent as they are stored;\n\
         where the receiver does not take that transfer syntax, as Explicit or Implicit VR Little Endian, pixels decoded, all other\n\
         attributes and the SOP Instance UID kept. Colour and more than 1 GiB of pixels are not decoded: the sub-operation fails.\n\n\
         Keys:\n\n{}\nC-FIND:\n\n{}\nC-MOVE and C-GET:\n\n{}",
        table(&["attribute", "tag", "from level"], rows),
        status_rows(&find),
        status_rows(&retrieve)
    )
}

fn commitment() -> String {
    let rows = [
        (Status::PROCESSING_FAILURE, "the object could not be checked"),
        (Status::NO_SUCH_INSTANCE, "it is not here"),
        (Status::CLASS_INSTANCE_CONFLICT, "it is here with another SOP class"),
    ];
    format!(
        "#### 3.2.6 Storage commitment\n\n\
         As provider: a request is a durable row before it is answered. The report goes to the peer's own port on a new association with\n\
         role selection where `[[peer]] port` is set, else on the association where it was asked for; it is repeated until it is heard. Peers are\n\
         called side by side, each with one report at a time, encrypted where `[[peer]] tls` says so.\n\
         Directories are synced before anything is committed to. Failure reasons:\n\n{}\n\
         As user: of destinations with `commit = true`, after each delivery; the answer stands in the job's story.\n",
        status_rows(&rows)
    )
}

fn network() -> String {
    "### 3.3 Network interfaces\n\nTCP/IP, IPv4 and IPv6. Nagle's algorithm is off on every connection.\n".into()
}

fn configuration() -> String {
    let written = Written::default();
    let rows = [
        ("AE title", "dicom.ae_title", written.dicom.ae_title),
        ("teaching AE title", "teaching.ae_title", written.teaching.ae_title),
        ("port", "dicom.listen", written.dicom.listen),
        ("encrypted port", "dicom.tls.listen", "none".into()),
    ];
    format!(
        "### 3.4 Configuration\n\n\
         A TOML file; every setting stands in `config/medlsamd.toml`. Remote AEs are `[[peer]]` (who may call) and `[[destination]]` (who\n\
         gets results). Names are resolved to addresses when a connection is opened.\n\n{}",
        table(
            &["parameter", "setting", "default"],
            rows.map(|(what, key, value)| vec![what.to_owned(), format!("`{key}`"), value])
        )
    )
}

fn media_and_characters() -> String {
    "## 4 Media interchange\n\nNone. Drop folders take Part 10 files by the same intake as the network.\n\n\
     ## 5 Support of character sets\n\n\
     Attributes of patient and study are copied into results byte for byte with their Specific Character Set, whatever it is,\n\
     extended ones included. Our own text is ASCII, or in that character set where a profile's names need it. Queries are matched in\n\
     the character sets that the program can decode, and answered in that of the object.\n"
        .into()
}

fn security() -> String {
    "## 6 Security\n\n\
     - Associations are accepted only from listed AE titles at their listed hosts, and each service only for those permitted.\n\
     - TLS 1.2 and 1.3 on a port of its own, mutually authenticated, suites as BCP 195 (RFC 9325) recommends; as user for\n\
       destinations and called peers with `tls = true`. Certificates are replaced without a restart.\n\
     - Patient data are not logged. No user identity negotiation is required.\n"
        .into()
}

fn annexes() -> String {
    let rows = results::KINDS.iter().map(|kind| {
        let encoding = match kind.name {
            "labelmap" => "RLE Lossless, or Explicit VR Little Endian by profile",
            _ => "Explicit VR Little Endian",
        };
        vec![
            class_name(kind.sop_class_uid).to_owned(),
            kind.sop_class_uid.to_owned(),
            format!("`{}`", kind.name),
            encoding.into(),
        ]
    });
    let storages = SERVICES
        .iter()
        .filter(|service| service.answer == Answer::Store)
        .count();
    format!(
        "## 7 Annexes\n\n\
         ### 7.1 IOD contents\n\nCreated objects; whose readers were tried is in `docs/receivers.md`.\n\n{}\n\
         Patient and General Study modules come from the CT. Each object has a series of its own in the CT's study and frame of\n\
         reference, refers to the images it was made from, names the algorithm and its models, and carries UIDs under 2.25.\n\
         Of received CT (the storage services of table 1-1, {storages} rows of section 3.2.3) the program uses position, orientation, pixel spacing,\n\
         frame of reference, rescale and padding attributes, per frame in multi-frame objects.\n\n\
         ### 7.2 Private attributes\n\nNone in data sets. Files on disk carry the data set's length in (0002,0102).\n\n\
         ### 7.3 Coded terminology\n\nSNOMED CT for anatomy, category and laterality; DCM and UCUM in reports (TID 1500).\n\n\
         ### 7.4 Standard extended, specialised or private SOP classes\n\nNone.\n\n\
         Transfer syntaxes by UID: {}.\n",
        table(&["SOP class", "UID", "result", "encoding"], rows),
        [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
            .map(|uid| format!("{} {uid}", syntax_name(uid)))
            .join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_names_every_service_result_and_key_in_the_order_of_the_standard() {
        let text = statement();
        let held = SERVICES
            .iter()
            .flat_map(|service| service.abstract_syntaxes.iter().copied());
        for uid in held.chain(used().into_iter().map(|(uid, _)| uid)) {
            assert_ne!(class_name(uid), uid, "no name");
        }
        for service in SERVICES {
            assert!(text.contains(service.name), "{}", service.name);
            for uid in service.abstract_syntaxes.iter().chain(service.transfer_syntaxes) {
                let known = text.contains(uid) || text.contains(&syntax_name(uid));
                assert!(known, "{uid}");
            }
        }
        for kind in results::KINDS {
            assert!(
                text.contains(kind.sop_class_uid) && text.contains(kind.name),
                "{}",
                kind.name
            );
        }
        let chapters: Vec<&str> = text.lines().filter(|line| line.starts_with("## ")).collect();
        let numbers: Vec<String> = (1..=chapters.len()).map(|n| format!("## {n} ")).collect();
        assert_eq!(chapters.len(), 7);
        assert!(
            chapters
                .iter()
                .zip(&numbers)
                .all(|(chapter, number)| chapter.starts_with(number))
        );
        assert!(text.contains("StudyInstanceUID | (0020,000D) | STUDY"));
        // A table's rows have as many cells as its head.
        let mut cells = 0;
        for line in text.lines() {
            let count = line.matches('|').count();
            if !line.starts_with('|') {
                cells = 0;
            } else if cells == 0 {
                cells = count;
            } else {
                assert_eq!(count, cells, "{line}");
            }
        }
    }
}
