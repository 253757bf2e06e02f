//! What asks and is asked: foreign tools off the test's thread, a node that has something to find, an Orthanc beside it.

use crate::support::daemon::free_port;
use crate::support::node::{BUC, Node, YAMADA};
use crate::support::orthanc::Orthanc;
use crate::support::peers::python;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

pub const BUC_CT: &str = "1.2.826.10.1";
pub const YAMADA_CT: &str = "1.2.826.20.1";

/// Runs a tool off the test's thread.
pub async fn run(tool: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(tool);
    command.args(args).env("TCP_NODELAY", "1");
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Two patients; the first has a SEG made of its CT.
pub async fn filled(targets: &[String]) -> Node {
    let node = Node::start(targets).await;
    node.receive(&BUC, BUC_CT, 3);
    node.compute(&BUC, BUC_CT, &[]);
    node.receive(&YAMADA, YAMADA_CT, 2);
    node
}

/// Runs the pynetdicom script; its JSON.
pub async fn pynetdicom(args: &[&str]) -> Option<Value> {
    let python = python()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge/asking.py");
    let script = script.display().to_string();
    let output = run(&python, &[&[script.as_str()], args].concat()).await;
    assert!(output.status.success(), "{}", said(&output));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

pub async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A node and an Orthanc that know each other.
pub async fn with_orthanc() -> Option<(Node, Arc<Orthanc>)> {
    let dicom_port = free_port();
    let node = filled(&[format!("ORTHANC@127.0.0.1:{dicom_port}")]).await;
    let port = node.port;
    let orthanc = off_thread(move || Orthanc::start(port, dicom_port)).await?;
    Some((node, Arc::new(orthanc)))
}

pub async fn post(orthanc: &Arc<Orthanc>, path: &str, body: Value) -> Value {
    let (orthanc, path) = (orthanc.clone(), path.to_owned());
    let answer = off_thread(move || orthanc.request("POST", &path, body.to_string().as_bytes())).await;
    serde_json::from_slice(&answer).unwrap()
}

pub async fn get(orthanc: &Arc<Orthanc>, path: &str) -> Value {
    let (orthanc, path) = (orthanc.clone(), path.to_owned());
    off_thread(move || orthanc.get(&path)).await
}
