//! The real binary as a daemon of its own: config, storage and log in a temporary folder, a free port on loopback.

use medlsamd::job::{Job, State};
use medlsamd::store::Store;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Served {
    pub folder: tempfile::TempDir,
    pub port: u16,
    child: Option<Child>,
}

/// What differs from test to test.
pub struct Setup<'a> {
    /// TOML for `[[peer]]`, `[[protocol]]`, `[[destination]]` and whatever else.
    pub config: &'a str,
    /// Passed to the process.
    pub environment: &'a [(&'a str, &'a str)],
}

/// A port nobody listens on at this moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the set-up put runtime and weights; its absence is an error everywhere, since `make test` runs the set-up first.
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("MEDLSAMD_TEST_CACHE").map_or_else(|| checkout().join(".cache"), PathBuf::from);
    assert!(
        cache.join("onnxruntime/libonnxruntime.so").is_file(),
        "no set-up in {}: run `make setup`",
        cache.display()
    );
    cache
}

impl Served {
    /// Starts the daemon and waits until it answers.
    pub fn start(setup: &Setup<'_>) -> Self {
        let mut served = Self::prepare(setup);
        served.launch(setup.environment);
        served
    }

    /// Writes the configuration without starting anything.
    pub fn prepare(setup: &Setup<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let cache = cache();
        // Daemons of other tests run at the same time.
        let no_web = if setup.config.contains("[web]") {
            ""
        } else {
            "[web]\nlisten = \"\"\n"
        };
        let config = format!(
            "[dicom]\nlisten = \"127.0.0.1:{port}\"\n[storage]\ndir = \"storage\"\nmin_free_gb = 0.1\n\
             [inference]\nlibrary = \"{}\"\nproviders = [\"cpu\"]\n{no_web}[models]\ntemplates = \"templates.bin\"\ndir = \"{}\"\nweights_dir = \"{}\"\n{}",
            cache.join("onnxruntime/libonnxruntime.so").display(),
            checkout().join("models").display(),
            cache.join("weights").display(),
            setup.config
        );
        std::fs::write(folder.path().join("medlsamd.toml"), config).unwrap();
        Self {
            folder,
            port,
            child: None,
        }
    }

    pub fn launch(&mut self, environment: &[(&str, &str)]) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_medlsamd"))
            .args(["serve", "--config"])
            .arg(self.config_path())
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.wait("the daemon to listen", Duration::from_secs(60), |served| {
            TcpStream::connect(("127.0.0.1", served.port)).is_ok()
        });
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("medlsamd.toml")
    }

    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM; returns whether it ended with success.
    pub fn terminate(&mut self) -> bool {
        let Some(mut child) = self.child.take() else {
            return false;
        };
        assert!(
            Command::new("kill")
                .arg(child.id().to_string())
                .status()
                .unwrap()
                .success()
        );
        child.wait().unwrap().success()
    }

    /// The database, opened beside the daemon as the command line does.
    pub fn store(&self) -> Store {
        Store::open(&self.folder.path().join("storage"), jiff::tz::TimeZone::UTC).unwrap()
    }

    /// All jobs, oldest first.
    pub fn jobs(&self) -> Vec<Job> {
        let mut jobs = self.store().jobs(None, 1000).unwrap();
        jobs.sort_by_key(|job| job.id);
        jobs
    }

    /// Waits until `count` jobs exist and all have ended; returns them, oldest first.
    pub fn wait_for_jobs(&mut self, count: usize, patience: Duration) -> Vec<Job> {
        self.wait(&format!("{count} jobs to end"), patience, |served| {
            let jobs = served.jobs();
            jobs.len() >= count && jobs.iter().all(|job| job.state.is_end())
        });
        self.jobs()
    }

    pub fn wait_for_state(&mut self, state: State, patience: Duration) {
        self.wait(&format!("a job to be {state}"), patience, |served| {
            served.jobs().iter().any(|job| job.state == state)
        });
    }

    pub fn wait(&mut self, what: &str, patience: Duration, mut done: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(
                begin.elapsed() < patience,
                "waited too long for {what}; log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("log of the daemon:\n{}", self.log());
        }
    }
}
