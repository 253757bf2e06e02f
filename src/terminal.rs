//! Progress for people: a bar with stage and count on a terminal, plain lines otherwise.

use crate::progress::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

/// Shows a job's progress on standard error.
pub struct Shown {
    terminal: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            bar: Mutex::new(None),
        }
    }
}

impl Shown {
    /// Takes the bar off the terminal.
    pub fn finish(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Shown {
    fn stage(&self, name: &'static str, total: usize) {
        self.finish();
        if !self.terminal {
            eprintln!(
                "{name}{}",
                if total > 0 {
                    format!(": {total} steps")
                } else {
                    String::new()
                }
            );
            return;
        }
        let bar = ProgressBar::new(total as u64);
        let style = ProgressStyle::with_template("{msg:>12} {bar:40} {pos}/{len} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(name);
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
    }

    fn step(&self, done: usize) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            bar.set_position(done as u64);
        }
    }
}
