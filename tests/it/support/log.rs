//! The log of a test, to be looked at.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing::subscriber::DefaultGuard;

/// Holds what this thread logs for as long as it lives. Use with a current-thread runtime.
pub struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: DefaultGuard,
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub fn capture() -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = Sink(text.clone());
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || sink.clone())
            .finish();
        Self {
            text,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    /// Waits a little: the peer may hear of a matter before the thread that talks to it has written the line.
    ///
    /// # Panics
    /// If no WARN or ERROR line holds all of `parts`.
    #[track_caller]
    pub fn must_warn(&self, parts: &[&str]) {
        let bad = |line: &&str| line.contains(" WARN ") || line.contains("ERROR ");
        let begin = Instant::now();
        loop {
            let text = self.text();
            let mut warnings = text.lines().filter(bad);
            if warnings.any(|line| parts.iter().all(|part| line.contains(part))) {
                return;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "no warning with {parts:?} in:\n{text}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
