//! A file that was copied only in part has a perfect header. Whether its pixel data are all there is told from their lengths.

use crate::dicom::scan::{self, Encoding, ScanError};
use crate::dicom::uid::Uid;
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How much of a data set is read to find its pixel data where they are not in its head; the last is the longest header we take.
const HEADS: [usize; 2] = [1 << 20, 32 << 20];
/// Items of encapsulated pixel data that are followed.
const MAX_FRAGMENTS: usize = 1 << 20;
/// (FFFE,E000) and (FFFE,E0DD), always little endian (PS3.5 A.4).
const ITEM: [u8; 4] = [0xFE, 0xFF, 0x00, 0xE0];
const SEQUENCE_DELIMITER: [u8; 4] = [0xFE, 0xFF, 0xDD, 0xE0];

/// Checks the data set that fills `file` from `data_set_offset` to its end and begins with `head`. The inner error says what is
/// missing.
pub(crate) fn check(
    head: &[u8],
    file: &File,
    data_set_offset: u64,
    transfer_syntax_uid: &Uid,
) -> io::Result<Result<(), String>> {
    let encoding = Encoding::of(transfer_syntax_uid);
    if encoding.deflated {
        // Lengths are hidden in the stream; a cut one fails to inflate when it is decoded.
        return Ok(Ok(()));
    }
    let end = file.metadata()?.len();
    let length = end.saturating_sub(data_set_offset);
    let mut longer = HEADS.into_iter();
    let mut head = Cow::Borrowed(head);
    loop {
        let mut pixels = None;
        let scanned = scan::scan(&head, encoding, scan::PIXEL_DATA, |element| {
            if element.tag == scan::PIXEL_DATA {
                pixels = Some((element.offset as u64, element.length, element.undefined_length));
            }
        });
        match (pixels, scanned) {
            (Some((at, _, true)), _) => return check_fragments(file, data_set_offset + at, end),
            (Some((at, declared, false)), _) => {
                let found = length - at;
                let whole = found >= u64::from(declared);
                let missing = || format!("cut off: its pixel data have {found} of {declared} bytes");
                return Ok(if whole { Ok(()) } else { Err(missing()) });
            }
            (None, Err(ScanError::Malformed(problem))) => return Ok(Err(problem)),
            (None, _) if head.len() as u64 == length => return Ok(Err("it has no Pixel Data (7FE0,0010)".to_owned())),
            (None, _) => {}
        }
        let Some(size) = longer.next() else {
            let most = HEADS[HEADS.len() - 1] >> 20;
            return Ok(Err(format!("its pixel data do not begin within {most} MiB")));
        };
        let mut read = vec![0; size.min(usize::try_from(length).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut read, data_set_offset)?;
        head = Cow::Owned(read);
    }
}

/// Follows the items from `at`. That the last delimiter is missing is forgiven where the file ends behind an item, because some
/// archives lose it.
fn check_fragments(file: &File, mut at: u64, end: u64) -> io::Result<Result<(), String>> {
    for number in 0..MAX_FRAGMENTS {
        if at == end && number > 1 {
            return Ok(Ok(()));
        }
        if end - at < 8 {
            return Ok(Err(format!(
                "cut off within item {number} of its compressed pixel data"
            )));
        }
        let mut header = [0; 8];
        file.read_exact_at(&mut header, at)?;
        let [tag, length] = [
            [header[0], header[1], header[2], header[3]],
            [header[4], header[5], header[6], header[7]],
        ];
        let length = u64::from(u32::from_le_bytes(length));
        match tag {
            SEQUENCE_DELIMITER => return Ok(Ok(())),
            ITEM if at + 8 + length <= end => at += 8 + length,
            ITEM => {
                return Ok(Err(format!(
                    "cut off within item {number} of its compressed pixel data"
                )));
            }
            _ => return Ok(Err(format!("item {number} of its compressed pixel data is none"))),
        }
    }
    Ok(Err(format!(
        "its compressed pixel data have more than {MAX_FRAGMENTS} items"
    )))
}
