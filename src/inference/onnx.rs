//! Which weights a graph wants by name: the external initialisers of an ONNX file.
//!
//! Only that much of the protobuf is walked: `ModelProto.graph` (7) → `GraphProto.initializer` (5) → `TensorProto.dims` (1),
//! `name` (8), `data_location` (14, 1 = external).

use std::collections::BTreeMap;

/// Name → shape of every initialiser that lies outside the graph; `None` when the bytes are not a well-formed ONNX file.
pub fn external_initialisers(graph: &[u8]) -> Option<BTreeMap<String, Vec<usize>>> {
    let mut wanted = BTreeMap::new();
    for graph in fields(graph)?.into_iter().filter_map(|field| field.message(7)) {
        for tensor in fields(graph)?.into_iter().filter_map(|field| field.message(5)) {
            let (mut name, mut shape, mut external) = (None, Vec::new(), false);
            for field in fields(tensor)? {
                match field {
                    Field::Varint(1, extent) => shape.push(usize::try_from(extent).ok()?),
                    // `dims` packed into one field, as newer writers do.
                    Field::Bytes(1, mut packed) => {
                        while !packed.is_empty() {
                            shape.push(usize::try_from(varint(&mut packed)?).ok()?);
                        }
                    }
                    Field::Bytes(8, text) => name = Some(std::str::from_utf8(text).ok()?.to_owned()),
                    Field::Varint(14, location) => external = location == 1,
                    _ => {}
                }
            }
            if external {
                wanted.insert(name?, shape);
            }
        }
    }
    Some(wanted)
}

/// A protobuf field: its number and content. Fixed-width fields carry nothing we want.
enum Field<'a> {
    Varint(u64, u64),
    Bytes(u64, &'a [u8]),
    Fixed,
}

impl<'a> Field<'a> {
    fn message(self, number: u64) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(n, content) if n == number => Some(content),
            _ => None,
        }
    }
}

fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        fields.push(match key & 7 {
            0 => Field::Varint(key >> 3, varint(&mut bytes)?),
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).ok()?;
                Field::Bytes(key >> 3, take(&mut bytes, len)?)
            }
            1 => take(&mut bytes, 8).map(|_| Field::Fixed)?,
            5 => take(&mut bytes, 4).map(|_| Field::Fixed)?,
            _ => return None,
        });
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(head)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENCODER: &[u8] = include_bytes!("../../models/lite_medsam/encoder.onnx");

    #[test]
    fn the_encoder_asks_for_its_weights_by_name() {
        let wanted = external_initialisers(ENCODER).unwrap();
        assert_eq!(wanted.len(), 271);
        assert_eq!(wanted["image_encoder.patch_embed.seq.0.c.weight"], [32, 3, 1, 1]);
        assert_eq!(
            wanted["image_encoder.layers.2.blocks.5.attn.attention_biases"],
            [5, 196]
        );
    }

    #[test]
    fn a_damaged_graph_ends_without_a_panic() {
        for len in (0..ENCODER.len()).step_by(97) {
            let _ = external_initialisers(&ENCODER[..len]);
        }
        let mut graph = ENCODER[..4000].to_vec();
        for at in 0..graph.len() {
            let was = std::mem::replace(&mut graph[at], 0xff);
            let _ = external_initialisers(&graph);
            graph[at] = was;
        }
    }
}
