//! The teaching AE title: dcmtk stores a CT and a Segmentation that highdicom made of somebody else's labels, and the daemon learns.

use crate::labels::made;
use crate::support::daemon::{Served, Setup};
use crate::support::data;
use crate::support::peers::{peer, python};
use medlsamd::job::{Job, State};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(600);
const CONFIG: &str = "[series]\nsettle_s = 1.0\nquiet_period_s = 5.0\n\
     [[peer]]\nae_title = \"TPS\"\nhost = \"127.0.0.1\"\nmay = [\"teach\", \"store\"]\n\
     [[peer]]\nae_title = \"CT1\"\nhost = \"127.0.0.1\"\nmay = [\"store\"]\n\
     [[protocol]]\nname = \"body\"\nstructures = [\"external\"]\nresults = [\"rtstruct\"]\n";

/// Whether everything under the path was taken.
fn stored(storescu: &Path, calling: &str, called: &str, port: u16, path: &Path) -> bool {
    let port = port.to_string();
    let status = Command::new(storescu)
        .args(["-R", "+sd", "+r", "-aet", calling, "-aec", called, "127.0.0.1", &port])
        .arg(path)
        .env("TCP_NODELAY", "1")
        .output()
        .unwrap()
        .status;
    status.success()
}

/// `labels.json` with two structures exchanged.
fn swapped(names: &Path, out: &Path, [a, b]: [&str; 2]) {
    let mut all: serde_json::Value = serde_json::from_slice(&std::fs::read(names).unwrap()).unwrap();
    for name in all["labels"].as_object_mut().unwrap().values_mut() {
        let other = if name == a { Some(b) } else { (name == b).then_some(a) };
        *name = other.map_or(name.clone(), Into::into);
    }
    std::fs::write(out, all.to_string()).unwrap();
}

/// The job of the only series that is not the CT, newest last.
fn lessons(daemon: &Served, ct: &Job) -> Vec<Job> {
    let mut jobs = daemon.jobs();
    jobs.retain(|job| job.series != ct.series);
    jobs
}

#[test]
fn a_ct_and_its_segmentation_become_a_template_and_swapped_names_do_not() {
    let (Some(folder), Some(python), Some(storescu)) = (data::folder(), python(), peer("storescu")) else {
        return;
    };
    let Some(ct) = data::series("lidc_0001") else { return };
    let truth = folder.join("labelled/lidc_0001/seg.nii.gz");
    let names = truth.with_file_name("labels.json");
    let out = tempfile::tempdir().unwrap();
    let draw = |names: &Path, into: &str| {
        let dir = out.path().join(into);
        std::fs::create_dir(&dir).unwrap();
        let more = [
            "--truth".as_ref(),
            truth.as_path(),
            names,
            "--only".as_ref(),
            "liver".as_ref(),
            "spleen".as_ref(),
        ];
        made(&python, ct.path(), &dir, &more);
        dir
    };
    let right = draw(&names, "right");
    swapped(&names, &out.path().join("labels.json"), ["liver", "spleen"]);
    let wrong = draw(&out.path().join("labels.json"), "wrong");

    let mut daemon = Served::start(&Setup {
        config: CONFIG,
        environment: &[],
    });
    let port = daemon.port;
    assert!(
        !stored(&storescu, "CT1", "MEDLSAM_TEACH", port, &right),
        "who may not teach is refused"
    );
    assert!(
        !stored(&storescu, "TPS", "MEDLSAM", port, &right),
        "drawn objects are not taken elsewhere"
    );
    assert!(stored(&storescu, "TPS", "MEDLSAM_TEACH", port, &right));
    daemon.wait("the lesson to miss its CT", PATIENCE, |daemon| {
        let jobs = daemon.jobs();
        let reason = jobs.first().and_then(|job| job.reason.clone()).unwrap_or_default();
        reason.contains("its CT (of series") && reason.contains("is not here")
    });
    // Longer than the quiet period: a lesson waits for its CT all the same.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(daemon.jobs()[0].state, State::Waiting);
    assert!(stored(&storescu, "TPS", "MEDLSAM_TEACH", port, ct.path()));
    let jobs = daemon.wait_for_jobs(2, PATIENCE);
    let (lesson, of_ct) = (&jobs[0], &jobs[1]);
    assert_eq!(
        (lesson.state, of_ct.state),
        (State::Done, State::Done),
        "{:?} {:?}",
        lesson.reason,
        of_ct.reason
    );
    assert_eq!(lesson.summary.structures_found, ["liver", "spleen"]);
    assert!(
        of_ct.summary.structures_found.is_empty(),
        "a CT to learn from is not outlined"
    );

    let listed = Command::new(env!("CARGO_BIN_EXE_medlsamd"))
        .args(["template", "list", "--json", "--config"])
        .arg(daemon.config_path())
        .output()
        .unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let own: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .filter(|t| t["source"] == "added on site")
        .collect();
    assert_eq!(own.len(), 1, "{listed}");
    assert_eq!(own[0]["structures"], serde_json::json!(["liver", "spleen"]));
    let bank = std::fs::read(daemon.folder.path().join("templates.bin")).unwrap();

    assert!(stored(&storescu, "TPS", "MEDLSAM_TEACH", port, &wrong));
    let jobs = daemon.wait_for_jobs(3, PATIENCE);
    assert_eq!(lessons(&daemon, &jobs[1]).len(), 2);
    let refused = &jobs[2];
    assert_eq!(refused.state, State::Refused, "{:?}", refused.reason);
    let reason = refused.reason.as_deref().unwrap();
    assert!(
        reason.contains("liver: ") && reason.contains("it lies where spleen is expected"),
        "{reason}"
    );
    assert_eq!(
        std::fs::read(daemon.folder.path().join("templates.bin")).unwrap(),
        bank,
        "nothing was learned"
    );

    // The same CT, now to be outlined: every instance is here already, and still it is work.
    assert!(stored(&storescu, "TPS", "MEDLSAM", port, ct.path()));
    let jobs = daemon.wait_for_jobs(4, PATIENCE);
    let outlined = &jobs[3];
    assert_eq!((&outlined.series, outlined.instances), (&of_ct.series, 133));
    assert_eq!(outlined.summary.structures_found, ["external"], "{:?}", outlined.reason);
}
