//! Certificates made on the spot by openssl: an authority and whoever it vouches for.

use crate::support::peers::peer;
use medlsamd::config;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder with the certificates of one authority.
pub struct Authority {
    pub folder: tempfile::TempDir,
    openssl: PathBuf,
}

/// One holder's files.
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// `None`, loudly, where openssl is not installed.
    pub fn new() -> Option<Self> {
        let openssl = peer("openssl")?;
        let folder = tempfile::tempdir().unwrap();
        let authority = Self { folder, openssl };
        // Two authorities have two names, or a stranger's certificate would only have a bad signature.
        let name = authority.folder.path().file_name().unwrap().display();
        authority.openssl(&format!(
            "req -x509 {NEW_KEY} -keyout ca.key -out ca.pem -days 400 -subj /CN={name}"
        ));
        Some(authority)
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for `localhost` and 127.0.0.1 that is good for so many days; with 0 it has ended on return.
    pub fn certificate(&self, name: &str, days: u32) -> Certificate {
        let path = |ending: &str| self.folder.path().join(format!("{name}.{ending}"));
        std::fs::write(path("ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
        self.openssl(&format!(
            "req -new {NEW_KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days {days} -extfile {name}.ext"
        ));
        if days == 0 {
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
        Certificate {
            certificate: path("pem"),
            key: path("key"),
        }
    }

    /// Settings of somebody who trusts this authority. No encrypted port is named.
    pub fn settings(&self, own: &Certificate) -> config::Tls {
        config::Tls {
            listen: String::new(),
            certificate: own.certificate.clone(),
            key: own.key.clone(),
            ca: self.ca(),
        }
    }

    /// What dcmtk's tools want to hear, with `own` to show or nothing.
    pub fn dcmtk(&self, own: Option<&Certificate>) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let mut args = match own {
            Some(own) => vec!["+tls".to_owned(), text(&own.key), text(&own.certificate)],
            None => vec!["+tla".to_owned()],
        };
        args.extend(["+cf".to_owned(), text(&self.ca())]);
        args
    }

    fn openssl(&self, args: &str) {
        let output = Command::new(&self.openssl)
            .args(args.split(' '))
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "openssl {args}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
