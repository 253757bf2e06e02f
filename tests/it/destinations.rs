//! Promise: each destination gets what its profile says in the form it takes, and hears of a series that came to nothing.

use crate::support::daemon::{Served, Setup, free_port};
use crate::support::data;
use crate::support::orthanc::Orthanc;
use crate::support::peers::{Receiver, peer};
use medlsamd::job::State;
use medlsamd::labels::{self, Kind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(900);

fn config(orthanc: u16, archive: u16, tps: u16) -> String {
    format!(
        "[series]\nsettle_s = 2.0\nquiet_period_s = 4.0\n\
         [[peer]]\nae_title = \"STORESCU\"\nhost = \"127.0.0.1\"\nmay = [\"store\"]\n\
         [[protocol]]\nname = \"body\"\nmatch = {{ SeriesDescription = \"WITH BODY\" }}\n\
         structures = [\"liver\", \"external\"]\nresults = [\"seg\"]\nsend_to = [\"ARCHIVE\"]\n\
         [[protocol]]\nname = \"abdomen\"\nstructures = [\"liver\"]\nresults = [\"seg\", \"rtstruct\"]\nnotice = \"sc\"\n\
         send_to = [\"PACS\", \"ARCHIVE\", \"TPS\"]\n\
         [[destination]]\nname = \"PACS\"\naddress = \"ORTHANC@127.0.0.1:{orthanc}\"\nprofile = \"ours\"\nretry_s = 1.0\n\
         [[destination]]\nname = \"ARCHIVE\"\naddress = \"STORESCP@127.0.0.1:{archive}\"\nprofile = \"ours\"\nretry_s = 1.0\n\
         [[destination]]\nname = \"TPS\"\naddress = \"STORESCP@127.0.0.1:{tps}\"\nprofile = \"site_tps\"\nretry_s = 1.0\n\
         [profile.ours]\ntakes = [\"seg\", \"rtstruct\"]\nseg = \"auto\"\n\
         [profile.site_tps]\ntakes = [\"rtstruct\"]\nstyle = {{ names = {{ liver = \"Leber\" }}, holes = \"xor\" }}\n"
    )
}

fn push(storescu: &Path, port: u16, files: &[PathBuf]) {
    let mut command = Command::new(storescu);
    command
        .args(["-R", "-aec", "MEDLSAM", "127.0.0.1", &port.to_string()])
        .args(files);
    let output = command.env("TCP_NODELAY", "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Kinds of what a receiver holds, sorted, and the names of all regions.
fn received(files: &[PathBuf]) -> (Vec<Kind>, Vec<String>) {
    let read = |path: &PathBuf| labels::read(&std::fs::read(path).unwrap()).unwrap();
    let objects: Vec<_> = files.iter().map(read).collect();
    let mut kinds: Vec<Kind> = objects.iter().map(|labels| labels.kind).collect();
    kinds.sort_by_key(|kind| format!("{kind:?}"));
    let names = objects
        .iter()
        .flat_map(|labels| &labels.regions)
        .map(|region| region.name.clone());
    (kinds, names.collect())
}

#[test]
fn each_destination_gets_the_form_it_takes_and_a_notice_when_there_is_nothing() {
    let (Some(root), Some(storescu)) = (data::folder(), peer("storescu")) else {
        return;
    };
    // Everything, promiscuously; and the defaults, which know no label maps.
    let (Some(archive), Some(tps)) = (Receiver::start(&["-pm", "+xa"]), Receiver::start(&[])) else {
        return;
    };
    let orthanc_port = free_port();
    let mut daemon = Served::start(&Setup {
        config: &config(orthanc_port, archive.port, tps.port),
        environment: &[],
    });
    let Some(orthanc) = Orthanc::start(daemon.port, orthanc_port) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let abdomen = data::unpack(&root.join("dicom/crlm_1006.zip"), &folder.path().join("abdomen"));
    push(&storescu, daemon.port, &abdomen);
    let jobs = daemon.wait_for_jobs(1, PATIENCE);
    assert_eq!(jobs[0].state, State::Done, "{:?}", jobs[0].reason);

    assert_eq!(received(&archive.files()).0, [Kind::RtStruct, Kind::SegLabelMap]);
    assert_eq!(received(&tps.files()), (vec![Kind::RtStruct], vec!["Leber".to_owned()]));
    // Orthanc refuses what it does not know, and gets the form that it does.
    let [seg, rtstruct] = ["SEG", "RTSTRUCT"].map(|modality| orthanc.series(modality));
    assert_eq!((seg.len(), rtstruct.len()), (1, 1));
    let seg = labels::read(&orthanc.only_instance(&seg[0].0)).unwrap();
    assert_eq!((seg.kind, seg.regions[0].name.as_str()), (Kind::SegBinary, "Liver"));
    let story: Vec<String> = daemon
        .store()
        .events(jobs[0].id)
        .unwrap()
        .into_iter()
        .map(|e| e.text)
        .collect();
    assert!(
        story.iter().any(|line| line == "PACS acknowledged seg, rtstruct"),
        "{story:#?}"
    );
    assert!(
        story
            .iter()
            .any(|line| line == "ARCHIVE acknowledged labelmap, rtstruct"),
        "{story:#?}"
    );
    assert!(
        story.iter().any(|line| line.starts_with("TPS acknowledged rtstruct-")),
        "{story:#?}"
    );

    // Remembered: the next time nothing is offered that was refused.
    let refused = daemon.store().refused_classes(
        "PACS",
        &format!("ORTHANC@127.0.0.1:{orthanc_port}"),
        jiff::Timestamp::UNIX_EPOCH,
    );
    assert_eq!(refused.unwrap().len(), 1);

    // A few slices are no series: everybody hears why, in the study.
    let few = data::unpack(&root.join("dicom/acrin_breast_013.zip"), &folder.path().join("few"));
    push(&storescu, daemon.port, &few[..8]);
    let jobs = daemon.wait_for_jobs(2, PATIENCE);
    assert_eq!(jobs[1].state, State::Refused, "{:?}", jobs[1].reason);
    daemon.wait("the notice", PATIENCE, |_| {
        !orthanc.series("OT").is_empty() && tps.files().len() == 2
    });
    let notice = &orthanc.series("OT")[0];
    let text = String::from_utf8_lossy(&orthanc.only_instance(&notice.0)).into_owned();
    assert!(
        text.contains("not processed") && text.contains("slices"),
        "no reason in the notice"
    );
    assert_eq!(daemon.jobs()[1].state, State::Refused);
}

/// The same slices as another series, whose description asks for the body too.
fn as_another_series(dcmodify: &Path, files: &[PathBuf]) {
    let mut command = Command::new(dcmodify);
    command.args([
        "-nb",
        "-gin",
        "-i",
        "SeriesDescription=WITH BODY",
        "-m",
        "SeriesInstanceUID=1.2.826.0.1.3680043.10.77",
    ]);
    let output = command.args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The body overlaps the organs, which a label map cannot hold: the other form goes, and the job does not fail.
#[test]
fn masks_that_overlap_go_as_binary() {
    let (Some(root), Some(storescu), Some(dcmodify)) = (data::folder(), peer("storescu"), peer("dcmodify")) else {
        return;
    };
    let Some(archive) = Receiver::start(&["-pm", "+xa"]) else {
        return;
    };
    let mut daemon = Served::start(&Setup {
        config: &config(free_port(), archive.port, free_port()),
        environment: &[],
    });
    let folder = tempfile::tempdir().unwrap();
    let files = data::unpack(&root.join("dicom/crlm_1006.zip"), folder.path());
    as_another_series(&dcmodify, &files);
    push(&storescu, daemon.port, &files);
    let jobs = daemon.wait_for_jobs(1, PATIENCE);
    assert_eq!(
        (jobs[0].state, jobs[0].protocol.as_deref()),
        (State::Done, Some("body")),
        "{:?}",
        jobs[0].reason
    );
    let (kinds, mut names) = received(&archive.files());
    names.sort();
    assert_eq!(
        (kinds, names),
        (vec![Kind::SegBinary], vec!["External".to_owned(), "Liver".to_owned()])
    );
    assert!(
        jobs[0].summary.report_json.contains("no labelmap was written"),
        "{}",
        jobs[0].summary.report_json
    );
}
