//! Tensors out of a PyTorch `.pth` checkpoint, without executing anything in it.
//!
//! A checkpoint (PyTorch 1.6 and later) is a ZIP archive of stored members: `data.pkl` describes the tensors, `data/<key>`
//! holds a storage. Every length and index is checked, so a damaged or hostile file ends in an error.

mod pickle;
mod zip;

use crate::inference::pth::pickle::{Dtype, Global, Node, Pickle};
use ndarray::ArrayD;
use std::collections::BTreeMap;
use std::ops::Range;

/// Why a checkpoint can not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PthError(pub(crate) String);

/// Descriptions longer than this are refused; that of MedSAM ViT-B takes some 60 kB.
const MAX_PICKLE: usize = 8 << 20;
/// Tensors with more axes are refused.
const MAX_RANK: usize = 8;

/// A tensor as the checkpoint describes it.
#[derive(Clone, Debug)]
struct Entry {
    dtype: Dtype,
    storage: Range<usize>,
    /// In elements.
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// A checkpoint held in memory; tensors are decoded when asked for.
pub struct Checkpoint<'a> {
    file: &'a [u8],
    entries: BTreeMap<String, Entry>,
}

impl<'a> Checkpoint<'a> {
    /// Reads the description. State dictionaries under `model` or `state_dict` are found, and the `module.` that
    /// data-parallel training puts before every name is taken off.
    pub fn read(file: &'a [u8]) -> Result<Self, PthError> {
        let members = zip::members(file)?;
        let description = members.iter().find(|(name, _)| name.ends_with("/data.pkl"));
        let (name, range) = description.ok_or_else(|| PthError("it holds no data.pkl".into()))?;
        let root = name.trim_end_matches("data.pkl");
        if let Some(order) = members.get(&format!("{root}byteorder"))
            && &file[order.clone()] != b"little"
        {
            return Err(PthError("its numbers are not little-endian".into()));
        }
        if range.len() > MAX_PICKLE {
            return Err(PthError(format!("data.pkl has {} bytes", range.len())));
        }
        let pickle = pickle::read(&file[range.clone()])?;
        let storage = |key: &str| members.get(&format!("{root}data/{key}")).cloned();
        let mut entries = BTreeMap::new();
        for (name, tensor) in state(&pickle)? {
            let entry = entry(&pickle, tensor, &storage).map_err(|e| PthError(format!("{name}: {}", e.0)))?;
            entries.insert(name.strip_prefix("module.").unwrap_or(name).to_owned(), entry);
        }
        Ok(Self { file, entries })
    }

    /// Names and shapes of all tensors.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.as_str(), entry.shape.as_slice()))
    }

    /// The tensor `name` in f32, converted from f64, f16 or bf16 where need be.
    pub fn tensor(&self, name: &str) -> Result<ArrayD<f32>, PthError> {
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| PthError(format!("it holds no tensor {name}")))?;
        let raw = &self.file[entry.storage.clone()];
        let at = |element: usize| {
            let size = entry.dtype.size();
            // In range: `entry` checked the highest element.
            decode(entry.dtype, &raw[element * size..(element + 1) * size])
        };
        if let Dtype::Other(_) = entry.dtype {
            return Err(PthError(format!("{name} does not hold floating-point numbers")));
        }
        let count = entry.shape.iter().product();
        let mut values = Vec::with_capacity(count);
        let mut index = vec![0; entry.shape.len()];
        for _ in 0..count {
            let element = entry.offset + index.iter().zip(&entry.strides).map(|(i, s)| i * s).sum::<usize>();
            values.push(at(element));
            for (i, extent) in index.iter_mut().zip(&entry.shape).rev() {
                *i += 1;
                if *i < *extent {
                    break;
                }
                *i = 0;
            }
        }
        ArrayD::from_shape_vec(entry.shape.clone(), values).map_err(|e| PthError(format!("{name}: {e}")))
    }
}

fn decode(dtype: Dtype, raw: &[u8]) -> f32 {
    let narrow = || u16::from_le_bytes([raw[0], raw[1]]);
    match dtype {
        Dtype::F32 => f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]),
        Dtype::F64 => f64::from_le_bytes([raw[0], raw[1], raw[2], raw[3], raw[4], raw[5], raw[6], raw[7]]) as f32,
        Dtype::Bf16 => f32::from_bits(u32::from(narrow()) << 16),
        Dtype::F16 => half_to_f32(narrow()),
        Dtype::Other(_) => f32::NAN,
    }
}

/// IEEE 754 binary16 → binary32, exactly.
pub(crate) fn half_to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let exponent = u32::from(half >> 10 & 0x1f);
    let fraction = u32::from(half & 0x3ff);
    let magnitude = match exponent {
        // Zero and subnormals: fraction · 2⁻²⁴.
        0 => (fraction as f32 * f32::from_bits(0x3380_0000)).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// The nearest binary16, ties to even; beyond its range the largest one, so that a stored number stays a number.
pub(crate) fn f32_to_half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = f32::from_bits(bits & 0x7fff_ffff);
    if magnitude.is_nan() {
        return 0x7e00;
    }
    let magnitude = magnitude.min(65504.0);
    let half = if magnitude < 6.103_515_6e-5 {
        // Subnormal: steps of 2⁻²⁴. Adding 0.5 puts the step at the end of the fraction, rounded by the processor.
        (magnitude + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        let bits = magnitude.to_bits();
        (bits + 0xfff + (bits >> 13 & 1) - (112 << 23)) >> 13
    };
    sign | half as u16
}

/// The named tensors of the state dictionary.
fn state(pickle: &Pickle) -> Result<Vec<(&str, usize)>, PthError> {
    let nested = ["model", "state_dict"].iter().find_map(|key| {
        pickle
            .get(pickle.root, key)
            .filter(|id| matches!(pickle.node(*id), Node::Dict(_)))
    });
    let Node::Dict(items) = pickle.node(nested.unwrap_or(pickle.root)) else {
        return Err(PthError("it does not hold a dictionary of tensors".into()));
    };
    let tensor = |(key, value): &(usize, usize)| match pickle.node(*value) {
        Node::Tensor(arguments) => Some((pickle.text(*key)?, *arguments)),
        _ => None,
    };
    Ok(items.iter().filter_map(tensor).collect())
}

/// Checks `_rebuild_tensor_v2(storage, offset, shape, strides, …)` against the storage it names.
fn entry(pickle: &Pickle, arguments: usize, member: &dyn Fn(&str) -> Option<Range<usize>>) -> Result<Entry, PthError> {
    let malformed = || PthError("its description is malformed".into());
    let arguments = pickle.tuple(arguments).filter(|a| a.len() >= 4).ok_or_else(malformed)?;
    let Node::Storage(id) = pickle.node(arguments[0]) else {
        return Err(malformed());
    };
    // ("storage", type, key, device, element count)
    let storage = pickle.tuple(*id).filter(|s| s.len() >= 5).ok_or_else(malformed)?;
    let Node::Global(Global::Storage(dtype)) = pickle.node(storage[1]) else {
        return Err(malformed());
    };
    let key = pickle.text(storage[2]).ok_or_else(malformed)?;
    let range = member(key).ok_or_else(|| PthError(format!("its storage {key} is missing")))?;
    let offset = pickle.int(arguments[1]).ok_or_else(malformed)?;
    let (shape, strides) = (pickle.ints(arguments[2]), pickle.ints(arguments[3]));
    let (shape, strides) = (shape.ok_or_else(malformed)?, strides.ok_or_else(malformed)?);
    if shape.len() != strides.len() || shape.len() > MAX_RANK {
        return Err(malformed());
    }
    let held = range.len() / dtype.size();
    let elements = shape.iter().try_fold(1usize, |n, extent| n.checked_mul(*extent));
    let highest = shape.iter().zip(&strides).try_fold(offset, |at, (extent, stride)| {
        at.checked_add(extent.saturating_sub(1).checked_mul(*stride)?)
    });
    match (elements, highest) {
        // An empty tensor reads nothing. Elements may not be repeated by zero strides beyond what the storage holds.
        (Some(0), Some(_)) => {}
        (Some(n), Some(highest)) if n <= held && highest < held => {}
        _ => {
            return Err(PthError(format!(
                "shape {shape:?} does not fit its storage of {held} elements"
            )));
        }
    }
    Ok(Entry {
        dtype: *dtype,
        storage: range,
        offset,
        shape,
        strides,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A ZIP archive of stored members, as PyTorch writes them but for alignment.
    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut file, mut directory) = (Vec::new(), Vec::new());
        for (name, data) in members {
            let header = file.len() as u32;
            let sizes = [data.len() as u32, data.len() as u32];
            file.extend(b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
            sizes.iter().for_each(|s| file.extend(s.to_le_bytes()));
            file.extend((name.len() as u16).to_le_bytes());
            file.extend([0, 0]);
            file.extend(name.as_bytes());
            file.extend(*data);
            directory.extend(b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
            sizes.iter().for_each(|s| directory.extend(s.to_le_bytes()));
            directory.extend((name.len() as u16).to_le_bytes());
            directory.extend([0; 12]);
            directory.extend(header.to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let at = file.len() as u32;
        file.extend(&directory);
        file.extend(b"PK\x05\x06\0\0\0\0");
        (0..2).for_each(|_| file.extend((members.len() as u16).to_le_bytes()));
        file.extend((directory.len() as u32).to_le_bytes());
        file.extend(at.to_le_bytes());
        file.extend([0, 0]);
        file
    }

    fn text(s: &str) -> Vec<u8> {
        [b"X".as_slice(), &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
    }

    /// `_rebuild_tensor_v2` of a storage, in opcodes.
    fn tensor(storage: &str, key: &str, offset: u8, shape: [u8; 2], strides: [u8; 2]) -> Vec<u8> {
        let pair = |[a, b]: [u8; 2]| vec![b'K', a, b'K', b, 0x86];
        let kind = format!("ctorch\n{storage}\n");
        let parts: [&[u8]; 10] = [
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            &[text("storage")].concat(),
            kind.as_bytes(),
            &text(key),
            &text("cpu"),
            b"K\x06tQK",
            &[offset],
            &pair(shape),
            &pair(strides),
            b"\x89ccollections\nOrderedDict\n)RtR",
        ];
        parts.concat()
    }

    fn state_dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)Rq\x00(".to_vec();
        for (name, value) in items {
            pickle.extend(text(name));
            pickle.extend(value);
        }
        pickle.extend(b"u.");
        pickle
    }

    fn checkpoint() -> Vec<u8> {
        let floats: Vec<u8> = (0..6).flat_map(|v| (v as f32).to_le_bytes()).collect();
        let halves: Vec<u8> = [0x3c00u16, 0xc000, 0x0001, 0x7bff, 0x0000, 0x3555]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let pickle = state_dict(&[
            ("module.plain", tensor("FloatStorage", "0", 0, [2, 3], [3, 1])),
            ("turned", tensor("FloatStorage", "0", 0, [3, 2], [1, 3])),
            ("tail", tensor("FloatStorage", "0", 4, [1, 2], [2, 1])),
            ("half", tensor("HalfStorage", "1", 0, [2, 3], [3, 1])),
        ]);
        archive(&[
            ("m/data.pkl", &pickle),
            ("m/byteorder", b"little"),
            ("m/data/0", &floats),
            ("m/data/1", &halves),
        ])
    }

    fn flat(file: &[u8], name: &str) -> Vec<f32> {
        Checkpoint::read(file)
            .unwrap()
            .tensor(name)
            .unwrap()
            .iter()
            .copied()
            .collect()
    }

    #[test]
    fn tensors_come_with_their_shapes_strides_and_offsets() {
        let file = checkpoint();
        assert_eq!(flat(&file, "plain"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(flat(&file, "turned"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(flat(&file, "tail"), [4.0, 5.0]);
        assert_eq!(
            flat(&file, "half"),
            [1.0, -2.0, 5.960_464_5e-8, 65504.0, 0.0, 0.333_251_95]
        );
        let checkpoint = Checkpoint::read(&file).unwrap();
        let turned = checkpoint.shapes().find(|(name, _)| *name == "turned").unwrap();
        assert_eq!(turned.1, [3, 2]);
    }

    #[test]
    fn a_tensor_beyond_its_storage_is_refused() {
        let floats = [0u8; 24];
        for (offset, shape, strides) in [
            (0, [2, 4], [4, 1]),
            (1, [2, 3], [3, 1]),
            (0, [2, 2], [9, 1]),
            (0, [9, 9], [0, 0]),
        ] {
            let pickle = state_dict(&[("w", tensor("FloatStorage", "0", offset, shape, strides))]);
            let file = archive(&[("m/data.pkl", &pickle), ("m/data/0", &floats)]);
            let error = Checkpoint::read(&file).err().expect("refused").0;
            assert!(error.starts_with("w: shape"), "{error}");
        }
    }

    #[test]
    fn an_unknown_global_is_refused_and_named() {
        let pickle = state_dict(&[(
            "w",
            b"cposix\nsystem\n("
                .iter()
                .copied()
                .chain(text("true"))
                .chain(*b"tR")
                .collect(),
        )]);
        let error = Checkpoint::read(&archive(&[("m/data.pkl", &pickle)]))
            .err()
            .expect("refused")
            .0;
        assert!(error.contains("global posix.system is refused"), "{error}");
    }

    #[test]
    fn a_state_dictionary_may_be_nested() {
        let floats: Vec<u8> = (0..6).flat_map(|v| (v as f32).to_le_bytes()).collect();
        let inner = state_dict(&[("w", tensor("FloatStorage", "0", 0, [2, 3], [3, 1]))]);
        let pickle = [
            b"\x80\x02}(".as_slice(),
            &text("epoch"),
            b"K\x07",
            &text("model"),
            &inner[2..inner.len() - 1],
            b"u.",
        ]
        .concat();
        let file = archive(&[("m/data.pkl", &pickle), ("m/data/0", &floats)]);
        assert_eq!(flat(&file, "w")[5], 5.0);
    }

    #[test]
    fn halves_go_there_and_back() {
        for half in (0..=u16::MAX).filter(|h| h & 0x7c00 != 0x7c00) {
            assert_eq!(f32_to_half(half_to_f32(half)), half);
        }
        // Ties to even, out of range, and half of the least subnormal.
        assert_eq!(
            [1.000_488_3, 1.001_464_8, 1e9, -1e9, 2.980_232_2e-8].map(f32_to_half),
            [0x3c00, 0x3c02, 0x7bff, 0xfbff, 0]
        );
    }

    /// Reads everything a file offers; only a panic or a hang would fail.
    fn exhaust(file: &[u8]) {
        if let Ok(checkpoint) = Checkpoint::read(file) {
            let names: Vec<String> = checkpoint.shapes().map(|(name, _)| name.to_owned()).collect();
            for name in names {
                let _ = checkpoint.tensor(&name);
            }
        }
    }

    #[test]
    fn every_truncation_ends_in_an_error() {
        let file = checkpoint();
        for len in 0..file.len() {
            assert!(Checkpoint::read(&file[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn every_single_byte_may_be_anything() {
        let mut file = checkpoint();
        for at in 0..file.len() {
            let was = file[at];
            for new in [0, 1, 0x28, 0x52, 0x7f, 0x80, 0xff, was ^ 1, was ^ 0x80] {
                file[at] = new;
                exhaust(&file);
            }
            file[at] = was;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn many_bytes_may_be_anything(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
            let mut file = checkpoint();
            for (at, byte) in edits {
                let at = at.index(file.len());
                file[at] = byte;
            }
            exhaust(&file);
        }

        #[test]
        fn any_pickle_ends(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            exhaust(&archive(&[("m/data.pkl", &bytes)]));
        }
    }
}
