//! 500 associations at once with the real daemon, every tenth of them rude: nobody polite notices, and memory stays bounded.

use crate::support::daemon::{Served, Setup};
use crate::support::dataset::Slice;
use crate::support::rude::{CT_CONTEXT, Rude, message, request, store};
use medlsamd::dicom::status::Status;
use medlsamd::net::association::push_fragment;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;
use tokio::sync::Barrier;
use tokio::time::timeout;

const POLITE: usize = 450;
const RUDE: usize = 50;
/// Stored by each polite association.
const IMAGES: u32 = 1;
/// What an association may cost beyond the idle daemon, and what all of them together may besides.
const BYTES_EACH_KIB: usize = 300;
const BYTES_ALL_KIB: usize = 20 << 10;

#[test]
fn five_hundred_associations_of_which_every_tenth_is_rude() {
    let everybody = "[[peer]]\nae_title = \"SENDER\"\nhost = \"any\"\nmay = [\"store\"]\n\
                     [[protocol]]\nname = \"none\"\nmatch = { Modality = \"NONE\" }\nstructures = [\"all\"]\n";
    let mut served = Served::start(&Setup {
        config: everybody,
        environment: &[
            ("MEDLSAMD__DICOM__MAX_ASSOCIATIONS", "900"),
            ("MEDLSAMD__DICOM__MAX_ASSOCIATIONS_PER_HOST", "450"),
            ("MEDLSAMD__LOG__LEVEL", "error"),
        ],
    });
    let address = SocketAddr::from(([127, 0, 0, 1], served.port));
    let idle_kib = memory_kib(served.pid(), "VmRSS");
    let begin = Instant::now();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let insults = runtime.block_on(crowd(address));
    let peak_kib = memory_kib(served.pid(), "VmHWM");
    let grown_kib = peak_kib.saturating_sub(idle_kib);
    eprintln!(
        "{POLITE} polite associations stored {} objects of 512 × 512 in {:.1} s beside {insults} insults; \
         daemon {idle_kib} KiB idle, {peak_kib} KiB at most: {grown_kib} KiB more",
        POLITE * IMAGES as usize,
        begin.elapsed().as_secs_f64(),
    );
    let bound_kib = BYTES_ALL_KIB + (POLITE + RUDE) * BYTES_EACH_KIB;
    assert!(grown_kib <= bound_kib, "{grown_kib} KiB, more than {bound_kib}");
    let stored = crate::support::data::files(&served.folder.path().join("storage/series")).len();
    assert_eq!(
        stored,
        POLITE * IMAGES as usize,
        "nothing acknowledged is missing, nothing else is there"
    );
    assert!(served.is_running() && served.terminate());
}

fn memory_kib(pid: u32, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Everybody at once; returns how many rude acts there were.
async fn crowd(address: SocketAddr) -> usize {
    let (over, insults) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut rude = Vec::new();
    for index in 0..RUDE {
        let (over, insults) = (over.clone(), insults.clone());
        rude.push(tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                insult(address, index).await;
                insults.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }
    let together = Arc::new(Barrier::new(POLITE));
    let polite: Vec<_> = (0..POLITE)
        .map(|index| tokio::spawn(visit(address, index, together.clone())))
        .collect();
    for visitor in polite {
        visitor.await.expect("nobody polite sees an error");
    }
    over.store(true, Ordering::Relaxed);
    for task in rude {
        task.await.unwrap();
    }
    insults.load(Ordering::Relaxed)
}

/// Echo, two images, echo, release, with all the others there at the same time.
async fn visit(address: SocketAddr, index: usize, together: Arc<Barrier>) {
    let mut peer = Rude::associate(address).await;
    // Not for ever: a visitor who was turned away never comes.
    let all = timeout(Duration::from_secs(60), together.wait()).await;
    all.expect("all polite visitors have an association at the same time");
    peer.must_echo().await;
    for number in 1..=IMAGES {
        let mut slice = Slice::new(&format!("1.2.826.3.{index}"), number);
        slice.side = 512;
        let data = slice.data_set();
        let mut bytes = Vec::new();
        let command = store(slice.sop_instance_uid().as_str()).encode();
        push_fragment(&mut bytes, CT_CONTEXT, true, true, &command);
        let last = data.chunks(131_000).count() - 1;
        for (n, chunk) in data.chunks(131_000).enumerate() {
            push_fragment(&mut bytes, CT_CONTEXT, false, n == last, chunk);
            peer.send(&bytes).await;
            bytes.clear();
        }
        assert_eq!(peer.response().await.status, Status::SUCCESS);
    }
    peer.must_echo().await;
    peer.must_release().await;
}

/// One act of bad manners, of a kind that depends on who does it, from a host of its own.
async fn insult(address: SocketAddr, kind: usize) {
    let slice = Slice::new("1.2.826.4", kind as u32);
    let whole = message(CT_CONTEXT, &store(slice.sop_instance_uid().as_str()), &slice.data_set());
    let asking = request("SENDER", "MEDLSAM").encode();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let Ok(stream) = socket.connect(address).await else {
        return;
    };
    let mut peer = Rude::from(stream);
    match kind % 8 {
        0 => peer.send(b"GET / HTTP/1.1\r\n\r\n").await,
        1 => return peer.send(&asking[..100]).await,
        2 => peer.send(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0, 1]).await,
        3 => {
            peer.send(&[&asking[..], &[4, 0, 0x7f, 0xff, 0xff, 0xff]].concat())
                .await
        }
        // Gone in the middle of a data set.
        4 => return peer.send(&[&asking[..], &whole[..whole.len() / 2]].concat()).await,
        // Byte by byte, each a fragment of its own.
        5 => {
            peer.send(&asking).await;
            for byte in &slice.data_set()[..200] {
                let mut bytes = Vec::new();
                push_fragment(&mut bytes, CT_CONTEXT, true, false, &[*byte]);
                peer.send(&bytes).await;
                tokio::task::yield_now().await;
            }
            return;
        }
        // Silent for a while, holding its place.
        6 => {
            peer.send(&asking).await;
            return tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // Two thousand sequences in each other, and then nonsense.
        _ => {
            let level = [
                &[9, 0, 1, 0x10, b'S', b'Q', 0, 0][..],
                &[0xFF; 4],
                &[0xFE, 0xFF, 0, 0xE0],
                &[0xFF; 4],
            ]
            .concat();
            let nested = message(CT_CONTEXT, &store("1.2.826.4.999"), &level.repeat(2000));
            peer.send(&[&asking[..], &nested, b"nonsense"].concat()).await;
        }
    }
    while peer.hear().await.is_some() {}
}
