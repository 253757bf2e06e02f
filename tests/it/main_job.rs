//! The main job with a real PACS: Orthanc pushes CT, the daemon finds and outlines, Orthanc gets SEG and RTSTRUCT back.

use crate::support::daemon::{Served, Setup, free_port};
use crate::support::data;
use crate::support::orthanc::Orthanc;
use crate::support::peers::peer;
use medlsamd::job::State;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(1500);

fn config(orthanc_port: u16, structures: &str) -> String {
    format!(
        "[series]\nsettle_s = 2.0\nquiet_period_s = 20.0\n\
         [[peer]]\nae_title = \"ORTHANC\"\nhost = \"127.0.0.1\"\nmay = [\"store\"]\n\
         [[peer]]\nae_title = \"STORESCU\"\nhost = \"127.0.0.1\"\nmay = [\"store\"]\n\
         [[protocol]]\nname = \"all\"\nstructures = [{structures}]\nsend_to = [\"PACS\"]\n\
         [[destination]]\nname = \"PACS\"\naddress = \"ORTHANC@127.0.0.1:{orthanc_port}\"\nretry_s = 1.0\n"
    )
}

/// dciodvfy's errors for an object, or none.
fn iod_errors(object: &[u8]) -> Vec<String> {
    let Some(dciodvfy) = peer("dciodvfy") else {
        return Vec::new();
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), object).unwrap();
    let said = Command::new(dciodvfy).arg(file.path()).output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
    text.lines()
        .filter(|line| line.starts_with("Error"))
        .map(String::from)
        .collect()
}

/// One of each in the CT's own study, valid by a foreign validator.
fn expect_results(orthanc: &Orthanc, studies: usize) {
    let ct = orthanc.series("CT");
    assert_eq!(ct.len(), studies);
    for modality in ["SEG", "RTSTRUCT"] {
        let results = orthanc.series(modality);
        assert_eq!(results.len(), studies, "one {modality} per study");
        for (series, study) in results {
            assert!(
                ct.iter().any(|(_, of)| *of == study),
                "the {modality} is in the CT's study"
            );
            let object = orthanc.only_instance(&series);
            assert_eq!(iod_errors(&object), Vec::<String>::new(), "{modality}");
        }
    }
}

/// Four real series at once, by four associations whose slices interleave: four jobs, all right.
#[test]
fn four_series_pushed_at_once_become_four_results_in_the_pacs() {
    let (Some(root), Some(storescu)) = (data::folder(), peer("storescu")) else {
        return;
    };
    let orthanc_port = free_port();
    let structures = "\"liver\", \"heart\"";
    let mut daemon = Served::start(&Setup {
        config: &config(orthanc_port, structures),
        environment: &[],
    });
    let Some(orthanc) = Orthanc::start(daemon.port, orthanc_port) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut senders = Vec::new();
    let mut expected = Vec::new();
    for name in ["lidc_0001", "crlm_1006", "acrin_breast_013", "acrin_nsclc_042"] {
        let dir = folder.path().join(name);
        let files = data::unpack(&root.join(format!("dicom/{name}.zip")), &dir);
        files.iter().for_each(|file| orthanc.upload(file));
        expected.push(files.len() as u32);
        let mut command = Command::new(&storescu);
        // -R: only the contexts it needs; -xt: JPEG-LS as it is.
        let syntax = if name == "acrin_nsclc_042" { "-xt" } else { "-xe" };
        command.args([
            "-R",
            "+sd",
            "+r",
            syntax,
            "-aec",
            "MEDLSAM",
            "127.0.0.1",
            &daemon.port.to_string(),
        ]);
        senders.push(command.arg(&dir).env("TCP_NODELAY", "1").spawn().unwrap());
    }
    for mut sender in senders {
        assert!(sender.wait().unwrap().success(), "every slice is taken");
    }
    let jobs = daemon.wait_for_jobs(4, PATIENCE);
    assert_eq!(jobs.len(), 4);
    for job in &jobs {
        assert_eq!(job.state, State::Done, "{:?}", job.reason);
        assert!(!job.summary.structures_found.is_empty());
        assert_eq!(job.summary.provider, "cpu");
    }
    let mut counts: Vec<u32> = jobs.iter().map(|job| job.instances).collect();
    counts.sort_unstable();
    expected.sort_unstable();
    assert_eq!(counts, expected, "no slice strayed into another job");
    expect_results(&orthanc, 4);
}

/// Orthanc as the source too; a slice that comes late makes a second job whose result supersedes the first, and both say so.
/// `MEDLSAMD_TEST_LATE_S=120` sends it that many seconds after the others; it is always after the first job's end.
#[test]
fn a_late_slice_makes_a_new_result_that_says_what_it_supersedes() {
    let Some(root) = data::folder() else { return };
    let orthanc_port = free_port();
    let mut daemon = Served::start(&Setup {
        config: &config(orthanc_port, "\"liver\""),
        environment: &[],
    });
    let Some(orthanc) = Orthanc::start(daemon.port, orthanc_port) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let files = data::unpack(&root.join("dicom/crlm_1006.zip"), folder.path());
    let (late, early) = outermost(&files);
    early.iter().for_each(|file| orthanc.upload(file));
    let pushed = Instant::now();
    orthanc.push_ct();
    let first = daemon.wait_for_jobs(1, PATIENCE).remove(0);
    assert_eq!(first.state, State::Done, "{:?}", first.reason);

    let late_s = std::env::var("MEDLSAMD_TEST_LATE_S").map_or(0, |s| s.parse().unwrap());
    std::thread::sleep(Duration::from_secs(late_s).saturating_sub(pushed.elapsed()));
    orthanc.upload(&late);
    orthanc.push_ct();
    let jobs = daemon.wait_for_jobs(2, PATIENCE);
    assert_eq!(jobs.len(), 2);
    let second = &jobs[1];
    assert_eq!(second.state, State::Done, "{:?}", second.reason);
    assert_eq!(
        (second.instances, second.supersedes),
        (first.instances + 1, Some(first.id))
    );
    assert_eq!((first.identity.revision, second.identity.revision), (1, 2));
    let story = |job| {
        daemon
            .store()
            .events(job)
            .unwrap()
            .iter()
            .map(|e| e.text.clone())
            .collect::<Vec<_>>()
            .join("\n")
    };
    println!("first job:\n{}\nsecond job:\n{}", story(first.id), story(second.id));
    assert!(
        story(first.id).contains(&format!("job {}", second.id)),
        "{}",
        story(first.id)
    );

    // Both results are in the PACS, and the new one names the old one.
    let old = daemon.store().results(first.id).unwrap();
    let segs = orthanc.series("SEG");
    assert_eq!(segs.len(), 2);
    let texts: Vec<String> = segs
        .iter()
        .map(|(series, _)| String::from_utf8_lossy(&orthanc.only_instance(series)).into_owned())
        .collect();
    let old_uid = old
        .iter()
        .find(|result| result.kind == "seg")
        .unwrap()
        .sop_instance_uid
        .as_str();
    assert_eq!(texts.iter().filter(|text| text.contains("supersedes")).count(), 1);
    assert_eq!(
        texts.iter().filter(|text| text.contains(old_uid)).count(),
        2,
        "the old object and the one that names it"
    );
}

/// The slice with the greatest z, and the others: without it the stack has no gap.
fn outermost(files: &[std::path::PathBuf]) -> (std::path::PathBuf, Vec<std::path::PathBuf>) {
    let z = |path: &Path| {
        let instance = medlsamd::dicom::header::Instance::read(path).unwrap();
        instance.image_position.unwrap()[2]
    };
    let late = files.iter().max_by(|a, b| z(a).total_cmp(&z(b))).unwrap().clone();
    let early = files.iter().filter(|file| **file != late).cloned().collect();
    (late, early)
}

/// kill -9 while receiving, computing and sending: nothing acknowledged is lost and the PACS holds one of each.
#[test]
fn killed_at_any_stage_the_job_still_ends_with_one_result_of_each_kind() {
    let (Some(root), Some(storescu)) = (data::folder(), peer("storescu")) else {
        return;
    };
    let orthanc_port = free_port();
    let config = config(orthanc_port, "\"heart\"");
    let mut daemon = Served::prepare(&Setup {
        config: &config,
        environment: &[],
    });
    let Some(orthanc) = Orthanc::start(daemon.port, orthanc_port) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let files = data::unpack(&root.join("dicom/acrin_breast_013.zip"), folder.path());
    files.iter().for_each(|file| orthanc.upload(file));
    let port = daemon.port.to_string();
    let push = || {
        let mut command = Command::new(&storescu);
        command
            .args(["-R", "+sd", "+r", "-aec", "MEDLSAM", "127.0.0.1", &port])
            .arg(folder.path());
        command.env("TCP_NODELAY", "1").output().unwrap()
    };

    // Receiving: dies after the twentieth object is safe and before it is acknowledged; the sender repeats.
    daemon.launch(&[("MEDLSAMD_FAILPOINT", "intake_synced:20")]);
    assert!(!push().status.success(), "the sender sees the broken association");
    daemon.kill();
    daemon.launch(&[]);
    let kept = daemon.jobs().first().map_or(0, |job| job.instances);
    assert!(
        kept >= 19,
        "{kept} of at least 19 acknowledged objects are known after the restart"
    );
    assert!(push().status.success());

    // Computing.
    daemon.wait_for_state(State::Running, PATIENCE);
    std::thread::sleep(Duration::from_secs(2));
    daemon.kill();
    // Keeping: the files are written, the database does not know them.
    daemon.launch(&[("MEDLSAMD_FAILPOINT", "worker_before_keep")]);
    daemon.wait("the failpoint", PATIENCE, |served| !alive(served.pid()));
    daemon.kill();
    // Sending: the PACS has it, we do not know yet.
    daemon.launch(&[("MEDLSAMD_FAILPOINT", "delivery_before_record")]);
    daemon.wait("the failpoint", PATIENCE, |served| !alive(served.pid()));
    daemon.kill();
    daemon.launch(&[]);

    let jobs = daemon.wait_for_jobs(1, PATIENCE);
    assert_eq!(jobs.len(), 1);
    assert_eq!(
        (jobs[0].state, jobs[0].instances),
        (State::Done, files.len() as u32),
        "{:?}",
        jobs[0].reason
    );
    expect_results(&orthanc, 1);
}

/// A zombie counts as dead.
fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
