//! WADO-RS (PS3.18 10.4): objects as they are stored, and their metadata.

use crate::dicom::characters::Characters;
use crate::dicom::fields::from_scan;
use crate::dicom::header::{HeaderError, file_meta};
use crate::dicom::object;
use crate::dicom::scan::{Encoding, MAX_DEPTH};
use crate::query::Identifier;
use crate::store::Holding;
use crate::web::dicomweb::Target;
use crate::web::{Refusal, Web, blocking, json};
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use serde_json::Value as Json;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;

const CHUNK: usize = 128 * 1024;
/// Chunks read ahead of what the caller has taken.
const AHEAD: usize = 8;
/// What is read of a file for its metadata, first and at most.
const FIRST_READ: usize = 128 * 1024;
const MAX_READ: usize = 256 << 20;
/// Cannot occur in DICOM's own bytes but by accident of 2⁻¹²⁸.
const BOUNDARY: &str = "medlsamd-6f0c2f0e5b9d4b1f8a3e7d5c1b2a4968";

async fn named(web: &Arc<Web>, target: &Target) -> Result<Vec<Holding>, Refusal> {
    let identifier = Identifier::of(target.level(), &target.keys());
    let archive = web.archive.clone();
    let found = blocking(move || archive.named(&identifier))
        .await?
        .map_err(Refusal::failed)?;
    match found.is_empty() {
        true => Err(Refusal::new(StatusCode::NOT_FOUND, "nothing of that is here")),
        false => Ok(found),
    }
}

/// `multipart/related` of Part 10 files, each in the transfer syntax it is stored in, streamed from disk.
pub(in crate::web) async fn objects(web: &Arc<Web>, target: &Target) -> Result<Response, Refusal> {
    let found = named(web, target).await?;
    let (chunks, mut inbox) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
    tokio::task::spawn_blocking(move || {
        for holding in &found {
            if let Err(error) = send(holding, &chunks) {
                // The stream breaks off without its end, so that a half answer is not taken for a whole one.
                let _ = chunks.blocking_send(Err(error));
                return;
            }
        }
        let _ = chunks.blocking_send(Ok(format!("--{BOUNDARY}--\r\n").into()));
    });
    let body = Body::from_stream(stream::poll_fn(move |context| inbox.poll_recv(context)));
    let mut answer = Response::new(body);
    let kind = format!("multipart/related; type=\"application/dicom\"; boundary={BOUNDARY}");
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, kind.parse().expect("ASCII"));
    Ok(answer)
}

fn send(holding: &Holding, chunks: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let mut file = File::open(&holding.path)?;
    let head = format!(
        "--{BOUNDARY}\r\nContent-Type: application/dicom; transfer-syntax={}\r\n\r\n",
        holding.transfer_syntax_uid
    );
    chunks.blocking_send(Ok(head.into())).map_err(gone)?;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        if file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)? == 0 {
            break;
        }
        chunks.blocking_send(Ok(chunk.into())).map_err(gone)?;
    }
    chunks.blocking_send(Ok("\r\n".into())).map_err(gone)
}

/// Everything but the pixels, as DICOM JSON.
pub(in crate::web) async fn metadata(web: &Arc<Web>, target: &Target, base: &str) -> Result<Response, Refusal> {
    let found = named(web, target).await?;
    let base = base.to_owned();
    let read = blocking(move || {
        let one = |holding: &Holding| {
            let url = format!(
                "{base}/studies/{}/series/{}/instances/{}",
                holding.series.study_instance_uid, holding.series.series_instance_uid, holding.sop_instance_uid
            );
            describe(&holding.path, &url).map_err(|error| format!("{}: {error}", holding.sop_instance_uid))
        };
        found.iter().map(one).collect::<Result<Vec<Json>, String>>()
    });
    let described = read.await?.map_err(Refusal::failed)?;
    let mut answer = Response::new(Body::from(Json::Array(described).to_string()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, "application/dicom+json".parse().expect("ASCII"));
    Ok(answer)
}

/// Reads only as much of the file as its header takes.
fn describe(path: &Path, url: &str) -> Result<Json, HeaderError> {
    let failed = |source: io::Error| HeaderError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let (mut bytes, mut want) = (Vec::new(), FIRST_READ);
    loop {
        let missing = (want - bytes.len()) as u64;
        file.by_ref().take(missing).read_to_end(&mut bytes).map_err(failed)?;
        let complete = bytes.len() < want;
        match parse(&bytes, complete, url) {
            Err(HeaderError::NeedMore { .. }) if !complete && want < MAX_READ => want *= 4,
            done => return done,
        }
    }
}

fn parse(bytes: &[u8], complete: bool, url: &str) -> Result<Json, HeaderError> {
    let (transfer_syntax_uid, start) = file_meta(bytes)?;
    let encoding = Encoding::of(&transfer_syntax_uid);
    let plain;
    let (data, encoding) = match encoding.deflated {
        true if !complete => return Err(HeaderError::NeedMore { at_hand: bytes.len() }),
        true => {
            plain = object::inflate(&bytes[start..]).map_err(HeaderError::Malformed)?;
            (plain.as_slice(), Encoding::EXPLICIT_LE)
        }
        false => (&bytes[start..], encoding),
    };
    let read = json::read(data, encoding, &Characters::default(), url, MAX_DEPTH);
    read.map(Json::Object)
        .map_err(|error| from_scan(error, data.len(), complete))
}
