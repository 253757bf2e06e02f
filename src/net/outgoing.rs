//! A kept object on its way out: the data set of a Part 10 file, in pieces ready to send.

use crate::dicom::plain;
use crate::dicom::uid::Uid;
use crate::net::association::push_fragment;
use crate::net::off_thread;
use crate::net::scu::{Outgoing, ScuError};
use dicom::object::FileMetaTable;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// A data set on its way out.
pub enum Data {
    /// The rest of a file after its file meta group, byte by byte as kept.
    Kept(BufReader<File>),
    /// Small, or re-encoded: whole in memory.
    Held(io::Cursor<Vec<u8>>),
}

impl Read for Data {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Kept(file) => file.read(buffer),
            Self::Held(bytes) => bytes.read(buffer),
        }
    }
}

/// Opens an object and checks that the file is the one the caller believes it to be.
pub async fn open(object: &Outgoing, transfer_syntax: &Uid) -> Result<Data, ScuError> {
    let (object, syntax) = (object.clone(), transfer_syntax.clone());
    let path = object.path.clone();
    let outcome = off_thread(move || open_blocking(&object, &syntax)).await;
    outcome.flatten().map_err(|cause| ScuError::File { path, cause })
}

fn open_blocking(object: &Outgoing, syntax: &Uid) -> Result<Data, String> {
    let mut file = BufReader::new(File::open(&object.path).map_err(|error| error.to_string())?);
    let mut preamble = [0; 128];
    file.read_exact(&mut preamble)
        .map_err(|error| format!("no Part 10 preamble: {error}"))?;
    let meta = FileMetaTable::from_reader(&mut file).map_err(|error| error.to_string())?;
    let checks = [
        (
            "SOP class",
            meta.media_storage_sop_class_uid.as_str(),
            &object.sop_class_uid,
        ),
        (
            "SOP instance",
            meta.media_storage_sop_instance_uid.as_str(),
            &object.sop_instance_uid,
        ),
        (
            "transfer syntax",
            meta.transfer_syntax.as_str(),
            &object.transfer_syntax_uid,
        ),
    ];
    for (what, found, expected) in checks {
        let found = found.trim_end_matches(['\0', ' ']);
        if found != expected.as_str() {
            return Err(format!("its {what} is {found:?}, expected {expected}"));
        }
    }
    if *syntax != object.transfer_syntax_uid {
        return recode(&object.path, syntax);
    }
    let length = file.get_ref().metadata().map_err(|error| error.to_string())?.len();
    if length > WRITE_BYTES as u64 {
        return Ok(Data::Kept(file));
    }
    // An image: one visit to the blocking threads is enough, since each costs a wait for a busy machine.
    let mut bytes = Vec::with_capacity(WRITE_BYTES.min(length as usize));
    file.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(Data::Held(io::Cursor::new(bytes)))
}

/// Decoded, or as Implicit VR, for peers that take nothing else. Whole in memory.
fn recode(path: &Path, syntax: &Uid) -> Result<Data, String> {
    let file = std::fs::read(path).map_err(|error| error.to_string())?;
    Ok(Data::Held(io::Cursor::new(plain::data_set(&file, syntax)?)))
}

/// Reads ahead this much for one write.
const WRITE_BYTES: usize = 1 << 20;

/// The next P-DATA-TFs of a data set, about [`WRITE_BYTES`] of them, and whether they are the last.
pub async fn prepare(mut data: Data, fragment_bytes: usize, context_id: u8) -> Result<(Data, Vec<u8>, bool), String> {
    let held = matches!(data, Data::Held(_));
    let work = move || {
        let count = (WRITE_BYTES / fragment_bytes).max(1) * fragment_bytes;
        let mut chunk = Vec::with_capacity(count);
        data.by_ref().take(count as u64).read_to_end(&mut chunk)?;
        let is_last = chunk.len() < count || at_end(&mut data)?;
        let mut prepared = Vec::with_capacity(chunk.len() + 12 * (chunk.len() / fragment_bytes + 1));
        let mut fragments = chunk.chunks(fragment_bytes).peekable();
        if fragments.peek().is_none() {
            push_fragment(&mut prepared, context_id, false, true, &[]);
        }
        while let Some(fragment) = fragments.next() {
            push_fragment(
                &mut prepared,
                context_id,
                false,
                is_last && fragments.peek().is_none(),
                fragment,
            );
        }
        Ok((data, prepared, is_last))
    };
    let outcome: io::Result<_> = if held { work() } else { off_thread(work).await? };
    outcome.map_err(|error| error.to_string())
}

fn at_end(data: &mut Data) -> io::Result<bool> {
    match data {
        Data::Kept(file) => Ok(file.fill_buf()?.is_empty()),
        Data::Held(bytes) => Ok(bytes.fill_buf()?.is_empty()),
    }
}
