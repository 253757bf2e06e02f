//! What tests of the wire need to send files, by us or by dcmtk.

use dicom::object::FileMetaTable;
use medlsamd::dicom::uid::Uid;
use medlsamd::net::scu::Outgoing;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

/// The file as something to send, and its data set as it lies on disk.
pub fn outgoing(path: &Path) -> (Outgoing, Vec<u8>) {
    let mut file = std::fs::File::open(path).unwrap();
    file.read_exact(&mut [0; 128]).unwrap();
    let meta = FileMetaTable::from_reader(&mut file).unwrap();
    let mut data = Vec::new();
    file.read_to_end(&mut data).unwrap();
    let uid = |text: &str| Uid::parse(text).unwrap();
    let object = Outgoing {
        sop_class_uid: uid(&meta.media_storage_sop_class_uid),
        sop_instance_uid: uid(&meta.media_storage_sop_instance_uid),
        transfer_syntax_uid: uid(&meta.transfer_syntax),
        path: path.to_owned(),
    };
    (object, data)
}

/// Runs a dcmtk tool without Nagle's algorithm, off the test's thread.
pub async fn run(tool: &Path, args: Vec<String>) -> Output {
    let mut command = Command::new(tool);
    command.args(args).env("TCP_NODELAY", "1");
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// Who calls whom, in dcmtk's words.
pub fn to(address: SocketAddr, calling: &str, called: &str) -> Vec<String> {
    let port = address.port().to_string();
    ["-aet", calling, "-aec", called, "127.0.0.1", &port]
        .map(str::to_owned)
        .to_vec()
}
