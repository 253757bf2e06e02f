//! RLE Lossless (PS3.5 annex G), one frame at a time.

/// Bytes of the header of a frame: the number of segments and room for fifteen offsets.
const HEADER: usize = 64;
/// The longest run or literal one count byte holds.
const LONGEST: usize = 128;

/// Appends a frame whose byte planes, the most significant first, have rows of `columns` bytes. Its length is even.
pub(super) fn append_frame(out: &mut Vec<u8>, planes: &[&[u8]], columns: usize) {
    let start = out.len();
    out.resize(start + HEADER, 0);
    let count = planes.len() as u32;
    out[start..start + 4].copy_from_slice(&count.to_le_bytes());
    for (n, plane) in planes.iter().enumerate() {
        let (offset, place) = ((out.len() - start) as u32, start + 4 + 4 * n);
        out[place..place + 4].copy_from_slice(&offset.to_le_bytes());
        append_plane(out, plane, columns);
    }
}

/// Runs end with their row (G.3.1). Neighbouring rows are often equal, empty ones above all: those are not encoded again.
fn append_plane(out: &mut Vec<u8>, plane: &[u8], columns: usize) {
    let start = out.len();
    let mut earlier: (&[u8], usize) = (&[], start);
    for row in plane.chunks_exact(columns) {
        let begin = out.len();
        if row == earlier.0 {
            out.extend_from_within(earlier.1..begin);
        } else {
            append_row(out, row);
        }
        earlier = (row, begin);
    }
    if (out.len() - start) % 2 == 1 {
        out.push(0);
    }
}

fn append_row(out: &mut Vec<u8>, row: &[u8]) {
    let (mut at, mut literal) = (0, 0);
    while at < row.len() {
        let run = row[at..]
            .iter()
            .take(LONGEST)
            .take_while(|byte| **byte == row[at])
            .count();
        // Two alike are worth a run of their own only where no literal is open.
        if run >= 3 || run == 2 && literal == at {
            append_literal(out, &row[literal..at]);
            out.extend_from_slice(&[(257 - run) as u8, row[at]]);
            literal = at + run;
        }
        at += run;
    }
    append_literal(out, &row[literal..]);
}

fn append_literal(out: &mut Vec<u8>, bytes: &[u8]) {
    for part in bytes.chunks(LONGEST) {
        out.push((part.len() - 1) as u8);
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// G.3.2, written apart from the encoder; stops when the plane is full, as padding may follow.
    fn decode(segment: &[u8], length: usize) -> Vec<u8> {
        let (mut out, mut at) = (Vec::new(), 0);
        while out.len() < length {
            let count = segment[at] as i8;
            if count >= 0 {
                let n = count as usize + 1;
                out.extend_from_slice(&segment[at + 1..at + 1 + n]);
                at += n + 1;
            } else {
                assert_ne!(count, -128, "no bytes stand for nothing");
                out.resize(out.len() + (1 - isize::from(count)) as usize, segment[at + 1]);
                at += 2;
            }
        }
        assert!(segment.len() - at <= 1, "{} bytes after the plane", segment.len() - at);
        out
    }

    fn planes_of(frame: &[u8], length: usize) -> Vec<Vec<u8>> {
        let word = |n: usize| u32::from_le_bytes(frame[4 * n..4 * n + 4].try_into().unwrap()) as usize;
        let count = word(0);
        let end = |n: usize| if n == count { frame.len() } else { word(n + 1) };
        (1..=count).map(|n| decode(&frame[word(n)..end(n)], length)).collect()
    }

    #[test]
    fn a_row_is_encoded_as_the_standard_shows() {
        let mut out = Vec::new();
        append_row(&mut out, &[7, 7, 7, 1, 2, 2, 3, 9, 9]);
        assert_eq!(out, [254, 7, 5, 1, 2, 2, 3, 9, 9]);
        out.clear();
        append_row(&mut out, &[0; 300]);
        assert_eq!(out, [129, 0, 129, 0, 213, 0]);
    }

    proptest! {
        #[test]
        fn any_frame_comes_back(
            columns in 1usize..300,
            runs in prop::collection::vec((any::<u8>(), 1usize..200), 1..60),
            two in any::<bool>(),
        ) {
            let bytes: Vec<u8> = runs.iter().flat_map(|(value, n)| vec![*value; *n % if *value < 128 { 4 } else { 200 } + 1]).collect();
            let plane = &bytes[..bytes.len() / columns * columns];
            let reversed: Vec<u8> = plane.iter().rev().copied().collect();
            let planes: Vec<&[u8]> = if two { vec![plane, &reversed] } else { vec![plane] };
            let mut frame = vec![1, 2, 3];
            append_frame(&mut frame, &planes, columns);
            prop_assert_eq!((frame.len() - 3) % 2, 0);
            prop_assert_eq!(planes_of(&frame[3..], plane.len()), planes);
        }
    }
}
