//! The daemon as a service: what it tells systemd, how it stops, what its command line answers.

use crate::support::daemon::{Served, Setup};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

const CONFIG: &str = "[[peer]]\nae_title = \"CT1\"\nhost = \"127.0.0.1\"\nmay = [\"store\"]\n\
                      [[protocol]]\nname = \"all\"\nstructures = [\"all\"]\n";

/// What arrives on the socket within the time, as text.
fn notifications(socket: &UnixDatagram, enough: impl Fn(&str) -> bool, patience: Duration) -> String {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let begin = Instant::now();
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !enough(&text) && begin.elapsed() < patience {
        if let Ok(length) = socket.recv(&mut buffer) {
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
            text.push('\n');
        }
    }
    text
}

#[test]
fn systemd_is_told_ready_alive_and_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut daemon = Served::prepare(&Setup {
        config: CONFIG,
        environment: &[],
    });
    daemon.launch(&[("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "900000")]);
    let patience = Duration::from_secs(30);
    let said = notifications(&socket, |text| text.matches("WATCHDOG=1").count() >= 3, patience);
    assert!(said.contains("READY=1"), "{said}");
    assert!(said.matches("WATCHDOG=1").count() >= 3, "{said}");
    assert!(daemon.is_running());
    assert!(daemon.terminate(), "SIGTERM ends with success: {}", daemon.log());
    let said = notifications(&socket, |text| text.contains("STOPPING=1"), Duration::from_secs(1));
    assert!(said.contains("STOPPING=1"), "{said}");
}

fn medlsamd(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_medlsamd"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn exit_codes_tell_scripts_what_went_wrong() {
    assert_eq!(medlsamd(&["--help"]).0, 0);
    assert_eq!(medlsamd(&["dance"]).0, 2);
    let (code, _, stderr) = medlsamd(&["serve", "--config", "/nowhere/medlsamd.toml"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("/nowhere/medlsamd.toml"), "{stderr}");

    let daemon = Served::prepare(&Setup {
        config: CONFIG,
        environment: &[],
    });
    let config = daemon.config_path();
    let config = config.to_str().unwrap();
    let (code, _, stderr) = medlsamd(&["jobs", "list", "--config", config]);
    assert_eq!(code, 3, "no database yet: {stderr}");
    let (code, _, stderr) = medlsamd(&["process", "/nowhere", "--out", "/tmp/none", "--config", config]);
    assert_eq!(code, 1, "{stderr}");
}

#[test]
fn check_reports_every_problem_at_once_and_all_is_well_when_it_is() {
    let daemon = Served::prepare(&Setup {
        config: CONFIG,
        environment: &[],
    });
    let (code, stdout, stderr) = medlsamd(&["check", "--config", daemon.config_path().to_str().unwrap()]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(
        stdout.contains("provider cpu") && stdout.contains("lite_medsam"),
        "{stdout}"
    );

    let bad = "[[peer]]\nae_title = \"MUCH_TOO_LONG_A_TITLE\"\nhost = \"any\"\nmay = []\n\
               [[protocol]]\nname = \"x\"\nstructures = [\"soul\"]\nsend_to = [\"NOWHERE\"]\n";
    let daemon = Served::prepare(&Setup {
        config: bad,
        environment: &[],
    });
    let (code, stdout, _) = medlsamd(&["check", "--config", daemon.config_path().to_str().unwrap()]);
    assert_eq!(code, 2, "{stdout}");
    for complaint in ["MUCH_TOO_LONG_A_TITLE", "soul", "NOWHERE"] {
        assert!(stdout.contains(complaint), "{complaint} is missing in\n{stdout}");
    }
}

/// A provider written by name that does not load stops the daemon, unless the operator said otherwise: never in silence.
#[test]
fn a_named_provider_that_does_not_load_is_never_passed_over_in_silence() {
    let daemon = Served::prepare(&Setup {
        config: CONFIG,
        environment: &[],
    });
    let path = daemon.config_path();
    let text = std::fs::read_to_string(&path).unwrap();
    let wish = |strict: bool| {
        let wished = text.replace(
            "providers = [\"cpu\"]",
            &format!("providers = [\"cuda\", \"cpu\"]\nstrict = {strict}"),
        );
        std::fs::write(&path, wished).unwrap();
    };
    let config = path.to_str().unwrap();
    wish(true);
    let (code, _, stderr) = medlsamd(&["serve", "--config", config]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("cuda"), "{stderr}");
    let provider_line = || {
        let (code, stdout, _) = medlsamd(&["check", "--config", config]);
        let line = stdout.lines().find(|line| line.contains("provider cuda"));
        (code, line.unwrap_or_else(|| panic!("{stdout}")).to_owned())
    };
    let (code, line) = provider_line();
    assert_eq!(code, 3, "{line}");
    assert!(line.contains("PROBLEM") && !line.contains("WARNING"), "{line}");
    wish(false);
    let (code, line) = provider_line();
    assert_eq!(code, 0, "the operator allowed it: {line}");
    assert!(line.contains("WARNING") && !line.contains("PROBLEM"), "{line}");
}
