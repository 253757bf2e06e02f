//! DICOMweb for a client that we did not write, and for Orthanc as one: stored, found and retrieved, with the token and not without.

use crate::support::daemon::{Served, Setup, free_port};
use crate::support::data;
use crate::support::peers::python;
use medlsamd::job::State;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn serve(port: u16) -> Served {
    let config = format!(
        "[series]\nsettle_s = 1.0\nquiet_period_s = 5.0\n[web]\nlisten = \"127.0.0.1:{port}\"\ntoken_file = \"token\"\n\
         [[peer]]\nae_title = \"NOBODY\"\nhost = \"192.0.2.1\"\nmay = []\n\
         [[protocol]]\nname = \"body\"\nstructures = [\"external\"]\nresults = [\"rtstruct\"]\n"
    );
    let mut served = Served::prepare(&Setup {
        config: &config,
        environment: &[],
    });
    std::fs::write(served.folder.path().join("token"), TOKEN).unwrap();
    served.launch(&[]);
    served
}

#[test]
fn a_foreign_client_stores_finds_and_retrieves_by_dicomweb() {
    let (Some(python), Some(ct)) = (python(), data::series("crlm_1006")) else {
        return;
    };
    let port = free_port();
    let mut daemon = serve(port);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/web.py");
    let output = Command::new(python)
        .arg(script)
        .arg(format!("http://127.0.0.1:{port}/dicom-web"))
        .arg(TOKEN)
        .arg(ct.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = data::files(ct.path()).len();
    assert_eq!((&said["stored"], &said["again"]), (&count.into(), &1.into()), "{said}");
    let found = serde_json::json!({
        "studies": 1, "nobody": 0, "by_name": 1, "series": 1, "instances": count, "page": 7,
    });
    assert_eq!(said["found"], found);
    assert_eq!(
        (&said["retrieved"], &said["same_pixels"], &said["one"]),
        (&count.into(), &true.into(), &true.into())
    );
    assert_eq!(said["instances_in_study"], count);
    assert_eq!(
        said["differing"],
        serde_json::json!([]),
        "every attribute as pydicom says it"
    );
    assert_eq!(
        (&said["wrong_study"], &said["no_token"], &said["wrong_token"]),
        (&409.into(), &401.into(), &401.into())
    );
    // What came by HTTP is worked on like what came by DIMSE.
    let jobs = daemon.wait_for_jobs(1, Duration::from_secs(300));
    assert_eq!(jobs[0].state, State::Done, "{:?}", jobs[0].reason);
    assert_eq!(jobs[0].instances as usize, count);
    assert!(!daemon.log().contains("CRLM"), "no patient in the log");
}

/// Scanners are not turned away because something else sits on the web port.
#[test]
fn a_taken_web_port_is_said_loudly_and_dicom_goes_on() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // Returns once the DICOM port answers.
    let daemon = serve(taken.local_addr().unwrap().port());
    assert!(daemon.log().contains("there is no web port"), "{}", daemon.log());
}
