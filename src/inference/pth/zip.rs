//! The ZIP container of a checkpoint: members stored without compression, found through the central directory.

use crate::inference::pth::PthError;
use std::collections::BTreeMap;
use std::ops::Range;

const END: u32 = 0x0605_4b50;
const END64_LOCATOR: u32 = 0x0706_4b50;
const END64: u32 = 0x0606_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
const MAX_MEMBERS: u64 = 100_000;

/// Little-endian reads that say where a file ends too early instead of panicking.
pub(crate) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn slice(&self, at: usize, len: usize) -> Result<&'a [u8], PthError> {
        let short = || PthError(format!("it ends at byte {}, before {at} + {len}", self.0.len()));
        self.0.get(at..at.checked_add(len).ok_or_else(short)?).ok_or_else(short)
    }
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], PthError> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(at, N)?);
        Ok(out)
    }
    pub fn u8(&self, at: usize) -> Result<u8, PthError> {
        Ok(self.array::<1>(at)?[0])
    }
    pub fn u16(&self, at: usize) -> Result<u16, PthError> {
        self.array(at).map(u16::from_le_bytes)
    }
    pub fn u32(&self, at: usize) -> Result<u32, PthError> {
        self.array(at).map(u32::from_le_bytes)
    }
    pub fn u64(&self, at: usize) -> Result<u64, PthError> {
        self.array(at).map(u64::from_le_bytes)
    }
}

/// Name → where in the file its bytes lie. Compressed, encrypted or repeated members are refused.
pub(crate) fn members(file: &[u8]) -> Result<BTreeMap<String, Range<usize>>, PthError> {
    let bytes = Bytes(file);
    let (count, mut at) = directory(&bytes)?;
    if count > MAX_MEMBERS {
        return Err(PthError(format!("its directory claims {count} members")));
    }
    let mut members = BTreeMap::new();
    for _ in 0..count {
        if bytes.u32(at)? != CENTRAL {
            return Err(PthError(format!("no directory entry at byte {at}")));
        }
        let (flags, method) = (bytes.u16(at + 8)?, bytes.u16(at + 10)?);
        let lens = [bytes.u16(at + 28)?, bytes.u16(at + 30)?, bytes.u16(at + 32)?].map(usize::from);
        let name = String::from_utf8_lossy(bytes.slice(at + 46, lens[0])?).into_owned();
        if method != 0 || flags & 1 != 0 {
            return Err(PthError(format!("member {name} is compressed or encrypted")));
        }
        let extra = bytes.slice(at + 46 + lens[0], lens[1])?;
        let wanted = [bytes.u32(at + 24)?, bytes.u32(at + 20)?, bytes.u32(at + 42)?];
        let [size, packed, header] = widen(extra, wanted)?;
        if size != packed {
            return Err(PthError(format!("member {name} has two sizes")));
        }
        let header = position(header)?;
        if bytes.u32(header)? != LOCAL {
            return Err(PthError(format!("member {name} does not lie where the directory says")));
        }
        let start = header + 30 + usize::from(bytes.u16(header + 26)?) + usize::from(bytes.u16(header + 28)?);
        let len = position(size)?;
        bytes.slice(start, len)?;
        if members.insert(name.clone(), start..start + len).is_some() {
            return Err(PthError(format!("member {name} appears twice")));
        }
        at += 46 + lens.iter().sum::<usize>();
    }
    Ok(members)
}

/// Member count and the position of the first directory entry.
fn directory(bytes: &Bytes<'_>) -> Result<(u64, usize), PthError> {
    let len = bytes.0.len();
    // The end record is 22 bytes and a comment of at most 65535.
    let from = len.saturating_sub(22 + 65_535);
    let end = (from..len.saturating_sub(21))
        .rev()
        .find(|at| bytes.u32(*at) == Ok(END));
    let end = end
        .ok_or_else(|| PthError("it is not a ZIP archive (checkpoints older than PyTorch 1.6 are not read)".into()))?;
    let (count, offset) = (bytes.u16(end + 10)?, bytes.u32(end + 16)?);
    let locator = end.checked_sub(20).filter(|at| bytes.u32(*at) == Ok(END64_LOCATOR));
    match locator {
        Some(at) => {
            let end64 = position(bytes.u64(at + 8)?)?;
            if bytes.u32(end64)? != END64 {
                return Err(PthError("its 64-bit end record is missing".into()));
            }
            Ok((bytes.u64(end64 + 32)?, position(bytes.u64(end64 + 48)?)?))
        }
        None => Ok((count.into(), position(offset.into())?)),
    }
}

/// Replaces the fields that read 0xFFFFFFFF by those of the ZIP64 extra field, which holds only such fields, in this order.
fn widen(extra: &[u8], fields: [u32; 3]) -> Result<[u64; 3], PthError> {
    let bytes = Bytes(extra);
    let mut wide = fields.map(u64::from);
    let mut at = 0;
    while at + 4 <= extra.len() {
        let (id, len) = (bytes.u16(at)?, usize::from(bytes.u16(at + 2)?));
        if id == 1 {
            let mut from = at + 4;
            for (field, wide) in fields.iter().zip(&mut wide).filter(|(field, _)| **field == u32::MAX) {
                *wide = bytes
                    .u64(from)
                    .map_err(|_| PthError(format!("ZIP64 field {field:#x} is cut off")))?;
                from += 8;
            }
        }
        at += 4 + len;
    }
    Ok(wide)
}

/// A file position; those beyond half the address space are nonsense, and leaving them out keeps sums from overflowing.
fn position(v: u64) -> Result<usize, PthError> {
    usize::try_from(v)
        .ok()
        .filter(|v| *v < usize::MAX / 2)
        .ok_or_else(|| PthError(format!("it points at byte {v}")))
}
