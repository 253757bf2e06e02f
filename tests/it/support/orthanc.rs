//! A real Orthanc as PACS: source and destination.

use crate::support::daemon::free_port;
use crate::support::peers::peer;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Orthanc {
    http_port: u16,
    child: Child,
    folder: tempfile::TempDir,
}

/// Debian's package orthanc-dicomweb.
const DICOM_WEB: &str = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so";

impl Orthanc {
    /// `None`, loudly, where Orthanc is not installed. It knows the daemon as the modality `medlsam`.
    pub fn start(daemon_port: u16, dicom_port: u16) -> Option<Self> {
        Self::start_with(daemon_port, dicom_port, &json!({}))
    }

    /// The same with settings that replace or join the usual ones.
    pub fn start_with(daemon_port: u16, dicom_port: u16, settings: &Value) -> Option<Self> {
        let binary = peer("Orthanc")?;
        let folder = tempfile::tempdir().unwrap();
        let http_port = free_port();
        let db = folder.path().join("db");
        let mut config = json!({
            "StorageDirectory": db, "IndexDirectory": db, "HttpPort": http_port, "RemoteAccessAllowed": false,
            "AuthenticationEnabled": false, "DicomAet": "ORTHANC", "DicomPort": dicom_port, "DicomCheckCalledAet": false,
            "OverwriteInstances": true, "StableAge": 1, "DicomAlwaysAllowStore": true,
            "Plugins": [DICOM_WEB], "DicomWeb": { "Enable": true, "Root": "/dicom-web/" },
            "DicomModalities": { "medlsam": ["MEDLSAM", "127.0.0.1", daemon_port] },
        });
        for (key, value) in settings.as_object().unwrap() {
            config[key] = value.clone();
        }
        let path = folder.path().join("orthanc.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(binary)
            .arg(&path)
            .env("TCP_NODELAY", "1")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let orthanc = Self {
            http_port,
            child: child.unwrap(),
            folder,
        };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", dicom_port)).is_err()
            || TcpStream::connect(("127.0.0.1", http_port)).is_err()
        {
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "Orthanc does not start: {}",
                orthanc.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(orthanc)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A request of its REST interface; the body of the answer.
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).unwrap();
        let accept = if path.starts_with("/dicom-web") {
            "Accept: */*\r\n"
        } else {
            ""
        };
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\n{accept}Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("an HTTP head") + 4;
        let status = String::from_utf8_lossy(&answer[..end])
            .lines()
            .next()
            .unwrap_or_default()
            .to_string();
        assert!(
            status.contains(" 200 "),
            "{method} {path}: {status}\n{}",
            String::from_utf8_lossy(&answer[end..])
        );
        answer.split_off(end)
    }

    pub fn get(&self, path: &str) -> Value {
        serde_json::from_slice(&self.request("GET", path, b"")).unwrap()
    }

    pub fn upload(&self, file: &Path) {
        self.request("POST", "/instances", &std::fs::read(file).unwrap());
    }

    /// Pushes every CT series it has to the daemon by C-STORE.
    pub fn push_ct(&self) {
        let series: Vec<String> = self.series("CT").into_iter().map(|(id, _)| id).collect();
        let body = json!({ "Resources": series, "Synchronous": true });
        self.request("POST", "/modalities/medlsam/store", body.to_string().as_bytes());
    }

    /// Orthanc identifiers of the series of a modality, with the study each belongs to.
    pub fn series(&self, modality: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for id in self.get("/series").as_array().unwrap() {
            let id = id.as_str().unwrap();
            let series = self.get(&format!("/series/{id}"));
            if series["MainDicomTags"]["Modality"] == modality {
                found.push((id.to_string(), series["ParentStudy"].as_str().unwrap().to_string()));
            }
        }
        found
    }

    /// The bytes of an instance by WADO-RS, out of its multipart wrapping.
    pub fn wado(&self, path: &str) -> Vec<u8> {
        let parts = self.request("GET", &format!("/dicom-web/{path}"), b"");
        let at = |what: &[u8]| parts.windows(what.len()).position(|w| w == what);
        let boundary = &parts[..at(b"\r\n").expect("a boundary")];
        let begin = at(b"\r\n\r\n").expect("a head of the part") + 4;
        let end = parts[begin..]
            .windows(boundary.len())
            .position(|w| w == boundary)
            .expect("an end");
        parts[begin..begin + end - 2].to_vec()
    }

    /// The bytes of the only instance of a series.
    pub fn only_instance(&self, series: &str) -> Vec<u8> {
        let instances = self.get(&format!("/series/{series}"))["Instances"].clone();
        let instances = instances.as_array().unwrap();
        assert_eq!(instances.len(), 1, "one object per series");
        self.request(
            "GET",
            &format!("/instances/{}/file", instances[0].as_str().unwrap()),
            b"",
        )
    }
}

impl Drop for Orthanc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of Orthanc:\n{}", self.log());
        }
    }
}
