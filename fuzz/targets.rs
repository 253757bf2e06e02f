//! What strangers' bytes reach first: each target takes any bytes and must neither panic nor hang nor grow without bound.
//!
//! `fuzz_targets/` hands them to libFuzzer (`make fuzz`), `tests/it/fuzzing.rs` replays the seeds and what was found.

use medlsamd::dicom::header::{Instance, file_meta};
use medlsamd::dicom::object::Object;
use medlsamd::dicom::part10;
use medlsamd::dicom::plain;
use medlsamd::dicom::recode::implicit_vr;
use medlsamd::dicom::uid::Uid;
use medlsamd::geometry::Grid;
use medlsamd::labels;
use medlsamd::net::association::{Association, read_request};
use medlsamd::net::dimse::Command;
use medlsamd::net::negotiation::{Offer, negotiate};
use medlsamd::net::pdu::{AssociateAccept, AssociateRequest};
use medlsamd::net::scu::Outgoing;
use medlsamd::net::transport::{Broken, Transport};
use medlsamd::sample::{self, Label};
use medlsamd::scp::SERVICES;
use medlsamd::series::{self, Requirements, Series};
use medlsamd::volume::Volume;
use std::io::Cursor;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Takes any bytes.
pub type Target = fn(&[u8]);

pub const TARGETS: [(&str, Target); 4] = [
    ("association", association),
    ("command", command),
    ("part10", part10),
    ("labels", labels),
];

/// A command set (PS3.7 6.3.1).
pub fn command(data: &[u8]) {
    if let Ok(Command::Request(request)) = Command::decode(data) {
        // What is understood can be said again.
        let _ = Command::decode(&request.encode()).expect("our own encoding");
    }
}

/// Everything a peer sends on a connection, from A-ASSOCIATE-RQ to the end, through the code that serves it.
pub fn association(data: &[u8]) {
    let _ = AssociateRequest::decode(data);
    let _ = AssociateAccept::decode(data);
    let (runtime, listener) = wire();
    runtime.block_on(async {
        let address = listener.local_addr().expect("bound");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut client, server) = (client.expect("loopback"), accepted.expect("loopback").0);
        // No port is left waiting behind each of millions of connections.
        client.set_zero_linger().expect("a socket");
        let say = async {
            let _ = client.write_all(data).await;
            let _ = client.shutdown().await;
        };
        let _ = tokio::join!(say, listen(server));
    });
}

fn wire() -> &'static (Runtime, TcpListener) {
    static WIRE: OnceLock<(Runtime, TcpListener)> = OnceLock::new();
    WIRE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        (runtime, listener)
    })
}

async fn listen(server: TcpStream) -> Result<(), Broken> {
    let patience = Duration::from_secs(5);
    let mut transport = Transport::new(server, patience, patience)?;
    let request = read_request(&mut transport).await?;
    let offers: Vec<Offer> = SERVICES
        .iter()
        .map(|service| Offer {
            abstract_syntaxes: service.abstract_syntaxes,
            transfer_syntaxes: service.transfer_syntaxes,
            permitted: true,
        })
        .collect();
    let (_, contexts) = negotiate(&request.contexts, &offers);
    let mut association = Association::new(transport, contexts, 131_072, request.max_pdu);
    while let Some(message) = association.next_message().await? {
        let Command::Request(request) = message.command else {
            break;
        };
        let mut is_last = !request.has_data;
        while !is_last {
            (_, is_last) = association.next_fragment(message.context.id).await?;
        }
    }
    Ok(())
}

/// A file or a received object: its meta group, its header, every element of it, and the way to Implicit VR.
pub fn part10(data: &[u8]) {
    let _ = part10::read_meta(&mut Cursor::new(data));
    if let Ok((transfer_syntax_uid, start)) = file_meta(data) {
        for complete in [false, true] {
            let _ = Instance::parse(&data[start..], complete, &transfer_syntax_uid, Path::new("fuzzed"));
        }
    }
    if let Ok(object) = Object::open(data) {
        let _ = object.fields();
    }
    let _ = implicit_vr(data);
    let explicit = Uid::parse(part10::EXPLICIT_VR_LITTLE_ENDIAN).expect("a UID");
    let _ = plain::data_set(data, &explicit);
}

/// RTSTRUCT and SEG of strangers, held against a small CT.
pub fn labels(data: &[u8]) {
    let Ok(read) = labels::read(data) else { return };
    let mut series = ct().clone();
    if let Some(frame) = read.frames_of_reference.first() {
        series.frame_of_reference_uid = frame.clone();
    }
    if let Ok(placer) = read.on(&series) {
        for region in &read.regions {
            let _ = placer.place(region);
        }
    }
}

/// Eight slices of 24 × 20 pixels, always the same; their files are gone.
fn ct() -> &'static Series {
    static CT: OnceLock<Series> = OnceLock::new();
    CT.get_or_init(|| ct_in(tempfile::tempdir().expect("a folder").path()))
}

/// The same with its files.
pub fn ct_in(folder: &Path) -> Series {
    let grid = Grid {
        origin: [-12.0, -10.0, 0.0].into(),
        directions: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        spacing_mm: [1.0, 1.0, 2.5],
        size: [24, 20, 8],
    };
    let hu = ndarray::Array3::from_elem(grid.shape(), -1000);
    let label = Label {
        patient_name: "Fuzz",
        patient_id: "1",
        description: "fuzz",
        date: "20261122",
        seed: "fuzz",
    };
    let slices = sample::write_series(&Volume { grid, hu }, &label, folder).expect("a series");
    let read = |slice: &Outgoing| Instance::read(&slice.path).expect("a slice");
    let any = Requirements {
        min_slices: 2,
        min_extent_mm: 1.0,
    };
    series::assemble(slices.iter().map(read).collect(), &any).expect("a series")
}
