//! Named points where a test can kill the process, to prove that a restart loses nothing.
//!
//! `MEDLSAMD_FAILPOINT=name` aborts at the first pass of the point, `name:5` at the fifth. Unset, a point costs one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

struct Armed {
    name: String,
    passes_left: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Passes the named point; does not come back when the test asked for the end here.
pub fn hit(name: &str) {
    let armed = ARMED.get_or_init(|| {
        let wish = std::env::var("MEDLSAMD_FAILPOINT").ok()?;
        let (name, passes) = wish.split_once(':').unwrap_or((&wish, "1"));
        Some(Armed {
            name: name.to_owned(),
            passes_left: AtomicU64::new(passes.parse().unwrap_or(1)),
        })
    });
    if let Some(armed) = armed
        && armed.name == name
        && armed.passes_left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        // As abrupt as kill -9: no destructor runs, nothing is flushed.
        std::process::abort();
    }
}
