//! A sender that is faster than any receiver, and a receiver that is faster than any sender: what both are measured against.
//!
//! ```text
//! cargo bench --bench load -- send AE@HOST:PORT --slice FILE [--images N] [--associations N] [--nagle]
//! cargo bench --bench load -- sink HOST:PORT             takes everything, writes nothing, until its standard input ends
//! cargo bench --bench load -- scu AE@HOST:PORT DIR       our own service class user, as deliveries use it
//! cargo bench --bench load -- files DIR --slice FILE [--images N] [--associations N]   no network: only makes files durable
//! ```
//!
//! `send` makes a series out of one slice: new UIDs and positions of the same length are written over those of the slice, in memory,
//! so that a message is one write of bytes that lie ready. `--nagle` leaves Nagle's algorithm on and writes each PDU by itself, as
//! many modalities do. `benches/reception.py` compares receivers with it; docs/performance.md has the figures.

use medlsamd::dicom::ae::{Address, AeTitle};
use medlsamd::dicom::part10;
use medlsamd::dicom::status::Status;
use medlsamd::dicom::uid::Uid;
use medlsamd::intake::{AssociationId, Claim, IntakeError};
use medlsamd::net::association::push_fragment;
use medlsamd::net::dimse::{Command, Operation, Request};
use medlsamd::net::pdu::{self, APPLICATION_CONTEXT, AssociateAccept, AssociateRequest, Proposed};
use medlsamd::net::scu::{self, Dial, Outgoing};
use medlsamd::scp::{Receiver, Settings, serve};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const CALLING: &str = "LOAD";
const CONTEXT: u8 = 1;
/// Longest P-DATA-TF sent, where the receiver takes it.
const MAX_PDU: usize = 131_072;
const PDV_HEADER_BYTES: usize = 6;

fn main() {
    // cargo bench adds its own word.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["send", address, ..] => send(address, &words[2..]),
        ["sink", listen] => sink(listen),
        ["scu", address, dir] => own_scu(address, Path::new(dir)),
        ["files", dir, ..] => files(Path::new(dir), &words[2..]),
        // Without a receiver there is nothing to measure.
        _ => eprintln!(
            "usage: send AE@HOST:PORT --slice FILE … | sink HOST:PORT | scu AE@HOST:PORT DIR | files DIR --slice FILE …"
        ),
    }
}

/// The value behind `--name`.
fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == name)?;
    words.get(at + 1).copied()
}

fn send(address: &str, words: &[&str]) {
    let number = |name, default| option(words, name).map_or(default, |text| text.parse().expect("a number"));
    let (images, associations): (usize, usize) = (number("--images", 500), number("--associations", 1));
    let nagle = words.contains(&"--nagle");
    let address: Address = address.parse().expect("AE@HOST:PORT");
    let slice = Slice::read(Path::new(option(words, "--slice").expect("--slice FILE")));
    let run = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_nanos()
        % 10_000_000_000_000;
    let ready = Arc::new(Barrier::new(associations + 1));
    let senders: Vec<_> = (0..associations)
        .map(|index| {
            let (slice, address, ready) = (slice.clone(), address.clone(), ready.clone());
            std::thread::spawn(move || {
                let mut sender = Sender::associate(&address, slice, nagle);
                sender.name_series(run, index);
                ready.wait();
                (1..=images).for_each(|number| sender.store(number));
                sender.release();
            })
        })
        .collect();
    ready.wait();
    let begin = Instant::now();
    senders
        .into_iter()
        .for_each(|sender| sender.join().expect("a sender failed"));
    report(images * associations, begin.elapsed(), slice.data.len());
}

/// What any receiver can reach at best that answers when an object is safe: files of the slice's length are written, renamed and
/// synced one after the other by each thread.
fn files(dir: &Path, words: &[&str]) {
    let number = |name, default| option(words, name).map_or(default, |text| text.parse().expect("a number"));
    let (images, threads): (usize, usize) = (number("--images", 500), number("--associations", 1));
    let slice = Slice::read(Path::new(option(words, "--slice").expect("--slice FILE")));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let data = &slice.data;
            scope.spawn(move || {
                for number in 0..images {
                    let path = dir.join(format!("{thread}-{number}.part"));
                    let mut file = File::create(&path).expect("a file");
                    data.chunks(MAX_PDU)
                        .for_each(|chunk| file.write_all(chunk).expect("room"));
                    std::fs::rename(&path, path.with_extension("dcm")).expect("a name");
                    file.sync_data().expect("a sync");
                }
            });
        }
    });
    report(images * threads, begin.elapsed(), slice.data.len());
}

fn report(images: usize, took: Duration, bytes_each: usize) {
    let rate = images as f64 / took.as_secs_f64();
    let seconds = took.as_secs_f64();
    println!(
        "{{\"images\": {images}, \"seconds\": {seconds:.3}, \"images_per_s\": {rate:.1}, \"mb_per_s\": {:.0}}}",
        rate * bytes_each as f64 / 1e6
    );
}

/// The data set of a slice.
#[derive(Clone)]
struct Slice {
    sop_class_uid: String,
    sop_instance_uid: String,
    transfer_syntax_uid: String,
    data: Vec<u8>,
}

impl Slice {
    fn read(path: &Path) -> Self {
        let mut file = File::open(path).expect("the slice");
        let meta = part10::read_meta(&mut file).expect("a Part 10 file");
        file.seek(SeekFrom::Start(meta.data_set_offset)).expect("its data set");
        let mut data = Vec::new();
        file.read_to_end(&mut data).expect("its data set");
        Self {
            sop_class_uid: meta.sop_class_uid,
            sop_instance_uid: meta.sop_instance_uid,
            transfer_syntax_uid: meta.transfer_syntax_uid,
            data,
        }
    }
}

/// Where in `bytes` the value of a short explicit VR element lies.
fn value(bytes: &[u8], element: [u8; 6]) -> std::ops::Range<usize> {
    let found = bytes.windows(6).position(|window| window == element);
    let at = found.expect("a slice in explicit VR little endian with UIDs and a position") + 8;
    at..at + usize::from(u16::from_le_bytes([bytes[at - 2], bytes[at - 1]]))
}

const SOP_INSTANCE_UID: [u8; 6] = [0x08, 0, 0x18, 0, b'U', b'I'];
const SERIES_INSTANCE_UID: [u8; 6] = [0x20, 0, 0x0E, 0, b'U', b'I'];
const IMAGE_POSITION: [u8; 6] = [0x20, 0, 0x32, 0, b'D', b'S'];

struct Sender {
    stream: TcpStream,
    /// All PDUs of a C-STORE, and where each ends.
    wire: Vec<u8>,
    ends: Vec<usize>,
    /// Write each PDU by itself.
    piecemeal: bool,
    prefix: String,
}

impl Sender {
    fn associate(address: &Address, slice: Slice, nagle: bool) -> Self {
        let mut stream = TcpStream::connect((address.host.as_str(), address.port)).expect("a receiver");
        stream.set_nodelay(!nagle).expect("TCP_NODELAY");
        let request = AssociateRequest {
            protocol_version: 1,
            called_ae: address.ae_title.to_string(),
            calling_ae: CALLING.into(),
            application_context: APPLICATION_CONTEXT.into(),
            contexts: vec![Proposed {
                id: CONTEXT,
                abstract_syntax: slice.sop_class_uid.clone(),
                transfer_syntaxes: vec![slice.transfer_syntax_uid.clone()],
            }],
            max_pdu: 16_384,
            ..AssociateRequest::default()
        };
        stream.write_all(&request.encode()).expect("a request");
        let (kind, body) = hear(&mut stream);
        assert_eq!(kind, pdu::ASSOCIATE_AC, "rejected");
        let accept = AssociateAccept::decode(&body).expect("A-ASSOCIATE-AC");
        assert_eq!(accept.contexts[0].result, 0, "the SOP class is not taken");
        let fragment = match accept.max_pdu as usize {
            0 => MAX_PDU,
            most => most.min(MAX_PDU),
        } - PDV_HEADER_BYTES;
        let (mut wire, mut ends) = (Vec::new(), Vec::new());
        let command = Request {
            operation: Operation::Store {
                sop_instance_uid: slice.sop_instance_uid.clone(),
            },
            message_id: 1,
            sop_class_uid: slice.sop_class_uid.clone(),
            has_data: true,
        };
        push_fragment(&mut wire, CONTEXT, true, true, &command.encode());
        ends.push(wire.len());
        let mut chunks = slice.data.chunks(fragment).peekable();
        while let Some(chunk) = chunks.next() {
            push_fragment(&mut wire, CONTEXT, false, chunks.peek().is_none(), chunk);
            ends.push(wire.len());
        }
        Self {
            stream,
            wire,
            ends,
            piecemeal: nagle,
            prefix: String::new(),
        }
    }

    fn name_series(&mut self, run: u128, index: usize) {
        self.prefix = format!("1.2.826.0.1.{}.{}", run + 1, index + 1);
        let at = value(&self.wire, SERIES_INSTANCE_UID);
        let uid = padded(&self.prefix, at.len());
        self.wire[at].copy_from_slice(uid.as_bytes());
    }

    fn store(&mut self, number: usize) {
        let at = value(&self.wire, SOP_INSTANCE_UID);
        let uid = padded(&format!("{}.{number}", self.prefix), at.len());
        // Affected SOP Instance UID (0000,1000) of the command set, implicit VR.
        let element = [0, 0, 0, 0x10, at.len() as u8, 0, 0, 0];
        let found = self.wire.windows(8).position(|window| window == element);
        let tag = found.expect("a C-STORE-RQ");
        for start in [at.start, tag + 8] {
            self.wire[start..start + uid.len()].copy_from_slice(uid.as_bytes());
        }
        let at = value(&self.wire, IMAGE_POSITION);
        let z = at.start
            + self.wire[at.clone()]
                .iter()
                .rposition(|&b| b == b'\\')
                .expect("three values")
            + 1;
        let width = at.end - z;
        let text = format!("{:<width$.1}", number as f64 * 1.5);
        self.wire[z..at.end].copy_from_slice(text.as_bytes());
        let mut start = 0;
        if self.piecemeal {
            for &end in &self.ends {
                self.stream
                    .write_all(&self.wire[start..end])
                    .expect("the receiver takes it");
                start = end;
            }
        } else {
            self.stream.write_all(&self.wire).expect("the receiver takes it");
        }
        let (kind, body) = hear(&mut self.stream);
        assert_eq!(kind, pdu::P_DATA_TF, "the association broke");
        match Command::decode(&body[PDV_HEADER_BYTES..]).expect("a response") {
            Command::Response(response) => assert_eq!(response.status, Status::SUCCESS, "{}", response.comment),
            Command::Request(request) => panic!("not an answer: {request:?}"),
        }
    }

    fn release(mut self) {
        self.stream.write_all(&pdu::RELEASE_RQ_BYTES).expect("a release");
        assert_eq!(hear(&mut self.stream).0, pdu::RELEASE_RP);
    }
}

/// A UID of exactly this length, with zeros behind a one as its last component.
fn padded(uid: &str, length: usize) -> String {
    match length - uid.len() {
        0 => uid.to_owned(),
        1 => format!("{uid}0"),
        missing => format!("{uid}.1{}", "0".repeat(missing - 2)),
    }
}

/// The next PDU: type and body.
fn hear(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut header = [0; pdu::HEADER_BYTES];
    stream.read_exact(&mut header).expect("an answer");
    let mut body = vec![0; u32::from_be_bytes([header[2], header[3], header[4], header[5]]) as usize];
    stream.read_exact(&mut body).expect("an answer");
    (header[0], body)
}

/// Takes everything and keeps nothing.
#[derive(Clone)]
struct Nothing;

impl Receiver for Nothing {
    type Spool = ();
    type Receipt = ();
    fn association_opened(&self, _: AssociationId) {}
    fn association_closed(&self, _: AssociationId) -> Result<(), IntakeError> {
        Ok(())
    }
    fn begin(&self, _: Claim) -> Result<(), IntakeError> {
        Ok(())
    }
    fn write((): &mut (), _: &[u8]) -> Result<(), IntakeError> {
        Ok(())
    }
    fn finish((): ()) -> Result<(), IntakeError> {
        Ok(())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.expect("threads")
}

fn sink(listen: &str) {
    let everybody = medlsamd::config::Peer {
        ae_title: "any".into(),
        host: "any".into(),
        may: vec![medlsamd::config::Permission::Store],
        ..medlsamd::config::Peer::default()
    };
    let settings = Settings {
        ae_title: AeTitle::parse("SINK").expect("a title"),
        teaching_ae: AeTitle::parse("SINK_TEACH").expect("a title"),
        targets: Vec::new(),
        archive: None,
        dicom: medlsamd::config::Dicom::default(),
        peers: vec![everybody],
    };
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await.expect("a free port");
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        serve(listener, settings, Nothing, async {
            let _ = ended.await;
        })
        .await;
    });
}

fn own_scu(address: &str, dir: &Path) {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let uid = |text: &str| Uid::parse(text).expect("a UID");
    let outgoing = |path: PathBuf| {
        let meta = part10::read_meta(&mut File::open(&path).expect("a file")).expect("a Part 10 file");
        Outgoing {
            sop_class_uid: uid(&meta.sop_class_uid),
            sop_instance_uid: uid(&meta.sop_instance_uid),
            transfer_syntax_uid: uid(&meta.transfer_syntax_uid),
            path,
        }
    };
    let bytes = std::fs::metadata(&paths[0]).expect("a file").len() as usize;
    let objects: Vec<Outgoing> = paths.into_iter().map(outgoing).collect();
    let dial = Dial {
        calling_ae: AeTitle::parse(CALLING).expect("a title"),
        address: address.parse().expect("AE@HOST:PORT"),
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_secs(60),
        tls: None,
    };
    let begin = Instant::now();
    let answers = runtime().block_on(scu::store(&dial, &objects)).expect("an association");
    let took = begin.elapsed();
    assert!(answers.iter().all(|a| matches!(a, Ok(Status::SUCCESS))) && answers.len() == objects.len());
    report(objects.len(), took, bytes);
}
