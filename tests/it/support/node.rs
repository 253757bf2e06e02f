//! Our services with a real store behind them and no models: received objects and kept results, asked for over the wire.

use crate::support::dataset::intake_options;
use crate::support::shelf::{dial, peer_entry, settings};
use medlsamd::archive::Archive;
use medlsamd::config::{Dicom, Permission};
use medlsamd::dicom::ae::AeTitle;
use medlsamd::dicom::part10;
use medlsamd::dicom::uid::Uid;
use medlsamd::intake::{AssociationId, Claim, Intake};
use medlsamd::job::{JobId, KeptResult, Parcel, Summary};
use medlsamd::net::scu::Dial;
use medlsamd::scp::{Settings, report_commitments, serve};
use medlsamd::store::Store;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
pub const SEG: &str = "1.2.840.10008.5.1.4.1.1.66.4";
pub const EXPLICIT: &str = "1.2.840.10008.1.2.1";

/// A data set by hand, in explicit VR little endian: text of any bytes.
#[derive(Clone, Default)]
pub struct Made(pub Vec<u8>);

impl Made {
    pub fn text(mut self, tag: u32, vr: &[u8; 2], value: impl AsRef<[u8]>) -> Self {
        let mut bytes = value.as_ref().to_vec();
        if bytes.len() % 2 == 1 {
            bytes.push(if vr == b"UI" { 0 } else { b' ' });
        }
        self.0.extend_from_slice(&((tag >> 16) as u16).to_le_bytes());
        self.0.extend_from_slice(&(tag as u16).to_le_bytes());
        self.0.extend_from_slice(vr);
        if vr == b"OW" {
            self.0.extend_from_slice(&[0, 0]);
            self.0.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        } else {
            self.0.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        }
        self.0.extend_from_slice(&bytes);
        self
    }
}

/// A patient's study, as its scanner names it.
#[derive(Clone)]
pub struct Case {
    pub study: &'static str,
    pub character_set: &'static str,
    pub patient_name: &'static [u8],
    pub patient_id: &'static str,
    pub date: &'static str,
    pub time: &'static str,
    pub accession: &'static str,
}

pub const BUC: Case = Case {
    study: "1.2.826.10",
    character_set: "ISO_IR 100",
    patient_name: b"Buc^J\xE9r\xF4me",
    patient_id: "P1",
    date: "20260110",
    time: "101500",
    accession: "A100",
};
pub const YAMADA: Case = Case {
    study: "1.2.826.20",
    character_set: "\\ISO 2022 IR 87",
    patient_name: b"Yamada^Tarou=\x1B$B;3ED\x1B(B^\x1B$BB@O:\x1B(B",
    patient_id: "P2",
    date: "20260220",
    time: "233000",
    accession: "A200",
};

impl Case {
    /// One object of a series; `number` counts from 1.
    pub fn object(&self, class: &str, series: &str, number: u32) -> (Uid, Vec<u8>) {
        let modality = if class == CT { "CT" } else { "SEG" };
        let uid = format!("{series}.{number}");
        let front = Made::default()
            .text(0x0008_0005, b"CS", self.character_set)
            .text(0x0008_0016, b"UI", class)
            .text(0x0008_0018, b"UI", &uid)
            .text(0x0008_0020, b"DA", self.date)
            .text(0x0008_0030, b"TM", self.time)
            .text(0x0008_0050, b"SH", self.accession)
            .text(0x0008_0060, b"CS", modality)
            .text(0x0008_1030, b"LO", "Chest")
            .text(0x0008_103E, b"LO", format!("{modality} of {series}"))
            .text(0x0010_0010, b"PN", self.patient_name)
            .text(0x0010_0020, b"LO", self.patient_id)
            .text(0x0010_0030, b"DA", "19700101")
            .text(0x0010_0040, b"CS", "O")
            .text(0x0018_0015, b"CS", "CHEST")
            .text(0x0020_000D, b"UI", self.study)
            .text(0x0020_000E, b"UI", series)
            .text(0x0020_0010, b"SH", "S1")
            .text(0x0020_0011, b"IS", "3")
            .text(0x0020_0013, b"IS", number.to_string())
            .text(0x0028_0002, b"US", [1, 0])
            .text(0x0028_0004, b"CS", "MONOCHROME2")
            .text(0x0028_0010, b"US", [16, 0])
            .text(0x0028_0011, b"US", [16, 0])
            .text(0x0028_0100, b"US", [16, 0])
            .text(0x0028_0101, b"US", [16, 0])
            .text(0x0028_0102, b"US", [15, 0])
            .text(0x0028_0103, b"US", [1, 0]);
        let labelled = match class {
            CT => front,
            _ => front.text(0x0070_0080, b"CS", "ORGANS"),
        };
        let made = labelled.text(0x7FE0_0010, b"OW", vec![number as u8; 512]);
        (Uid::parse(&uid).unwrap(), made.0)
    }
}

/// A server on a free port of the loopback, called MEDLSAM. `ASKER` may do all but store, `ORTHANC` that too, `VISITOR` only echo.
pub struct Node {
    pub folder: tempfile::TempDir,
    pub archive: Archive,
    pub port: u16,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    reporting: JoinHandle<()>,
}

const ASKS: &[Permission] = &[Permission::Query, Permission::Retrieve, Permission::Commit];
const ALL: &[Permission] = &[
    Permission::Store,
    Permission::Query,
    Permission::Retrieve,
    Permission::Commit,
];

impl Node {
    /// `targets` as `AETITLE@host:port`.
    pub async fn start(targets: &[String]) -> Self {
        Self::start_with(targets.iter().map(|text| dial("MEDLSAM", text)).collect()).await
    }

    pub async fn start_with(targets: Vec<Dial>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let archive = open(folder.path());
        let reporting = report_commitments(archive.clone(), targets.clone(), std::future::pending());
        let peers = vec![
            peer_entry("ASKER", "127.0.0.1", ASKS),
            peer_entry("ORTHANC", "127.0.0.1", ALL),
            peer_entry("VISITOR", "127.0.0.1", &[]),
        ];
        let settings = Settings {
            targets,
            archive: Some(archive.clone()),
            ..settings(Dicom::default(), peers)
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = serve(listener, settings, archive.intake.clone(), async {
            let _ = stopped.await;
        });
        Self {
            folder,
            archive,
            port,
            stop,
            task: tokio::spawn(serving),
            reporting: tokio::spawn(reporting),
        }
    }

    pub async fn stop(self) {
        self.reporting.abort();
        let _ = self.stop.send(());
        self.task.await.unwrap();
    }

    /// Takes a CT series in, as from a scanner; returns its objects in order.
    pub fn receive(&self, case: &Case, series: &str, count: u32) -> Vec<(Uid, Vec<u8>)> {
        let objects: Vec<_> = (1..=count).map(|number| case.object(CT, series, number)).collect();
        let uid = |text| Uid::parse(text).unwrap();
        for (instance, bytes) in &objects {
            let mut spool = self
                .archive
                .intake
                .begin(Claim {
                    sop_class_uid: uid(CT),
                    sop_instance_uid: instance.clone(),
                    transfer_syntax_uid: uid(EXPLICIT),
                    calling_ae: AeTitle::parse("CT1").unwrap(),
                    called_ae: AeTitle::parse("MEDLSAM").unwrap(),
                    association: AssociationId(999),
                })
                .unwrap();
            spool.write(bytes).unwrap();
            spool.finish().unwrap();
        }
        self.archive.intake.association_closed(AssociationId(999)).unwrap();
        objects
    }

    /// Ends the job of a received series with one SEG as its result, to be sent to these; returns the job and what was kept.
    pub fn compute(&self, case: &Case, series: &str, send_to: &[&str]) -> (JobId, KeptResult) {
        let now = jiff::Timestamp::now();
        let store = &self.archive.store;
        let job = store
            .jobs_of_series(&Uid::parse(series).unwrap())
            .unwrap()
            .pop()
            .unwrap();
        assert!(store.close(&job, "all", 0, "whole", now).unwrap());
        let job = store.claim(now).unwrap().unwrap();
        let (instance, bytes) = case.object(SEG, &format!("{series}.99"), 1);
        let path = self.result_file(job.id, &instance, &bytes);
        let result = KeptResult {
            kind: "seg".into(),
            sop_class_uid: Uid::parse(SEG).unwrap(),
            sop_instance_uid: instance,
            transfer_syntax_uid: Uid::parse(EXPLICIT).unwrap(),
            path,
            sha256: String::new(),
        };
        let parcel = |name: &&str| Parcel {
            destination: name.to_string(),
            items: vec![vec!["seg".into()]],
        };
        let parcels: Vec<Parcel> = send_to.iter().map(parcel).collect();
        store
            .keep(&job, std::slice::from_ref(&result), &Summary::default(), &parcels, now)
            .unwrap();
        (job.id, result)
    }

    fn result_file(&self, job: JobId, instance: &Uid, bytes: &[u8]) -> PathBuf {
        let dir = self.archive.store.results_dir(job);
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("seg.dcm");
        std::fs::write(&path, file(SEG, instance, bytes)).unwrap();
        path
    }
}

/// A Part 10 file.
pub fn file(class: &str, instance: &Uid, data_set: &[u8]) -> Vec<u8> {
    let uid = |text| Uid::parse(text).unwrap();
    let head = part10::head(&uid(class), instance, &uid(EXPLICIT), "MEDLSAM", "");
    let at = head.length_offset as usize;
    let mut bytes = head.bytes;
    bytes[at..at + 8].copy_from_slice(&(data_set.len() as u64).to_le_bytes());
    bytes.extend_from_slice(data_set);
    bytes
}

/// The archive of a storage directory.
pub fn open(dir: &Path) -> Archive {
    let store = Store::open(dir, jiff::tz::TimeZone::UTC).unwrap();
    let (intake, _) = Intake::open(store.clone(), intake_options()).unwrap();
    Archive { store, intake }
}
