//! A slice as one bit per pixel, and its connected pieces as runs: morphology on 64 pixels at a time.

/// Which neighbours touch a pixel in a step of [`Bits::step`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The four beside it.
    Cross,
    /// The eight around it.
    Box,
}

/// A row-major bitmap; the first column is the least significant bit of a row's first word. Bits beyond the last column are 0.
#[derive(Clone, PartialEq)]
pub(crate) struct Bits {
    pub columns: usize,
    pub rows: usize,
    words: usize,
    data: Vec<u64>,
}

impl Bits {
    /// The pixels (row by row) for which `inside` holds.
    pub(crate) fn of<T: Copy>(pixels: &[T], columns: usize, inside: impl Fn(T) -> bool) -> Self {
        let words = columns.div_ceil(64);
        let rows = pixels.len() / columns.max(1);
        let mut data = Vec::with_capacity(words * rows);
        for row in pixels.chunks_exact(columns.max(1)) {
            data.extend(row.chunks(64).map(|chunk| {
                let bit = |(n, pixel): (usize, &T)| u64::from(inside(*pixel)) << n;
                chunk.iter().enumerate().map(bit).fold(0, |word, bit| word | bit)
            }));
        }
        Self {
            columns,
            rows,
            words,
            data,
        }
    }

    pub(crate) fn empty(&self) -> Self {
        Self {
            data: vec![0; self.data.len()],
            ..*self
        }
    }

    fn row(&self, row: usize) -> &[u64] {
        &self.data[row * self.words..(row + 1) * self.words]
    }

    /// Every pixel combined with its neighbours, those outside of the slice being 0: AND shrinks by a pixel, OR grows by one.
    /// Taking cross and box in turn makes an octagon, which is near enough a disc.
    fn step(&self, reach: Reach, combine: impl Fn(u64, u64) -> u64) -> Self {
        let mut across = vec![0; self.data.len()];
        for (row, out) in across.chunks_exact_mut(self.words.max(1)).enumerate() {
            let words = self.row(row);
            for (n, out) in out.iter_mut().enumerate() {
                let before = n.checked_sub(1).map_or(0, |n| words[n] >> 63);
                let after = words.get(n + 1).map_or(0, |word| word << 63);
                *out = combine(combine(words[n], words[n] << 1 | before), words[n] >> 1 | after);
            }
        }
        let beside = match reach {
            Reach::Cross => &self.data,
            Reach::Box => &across,
        };
        let data = (0..across.len()).map(|n| {
            let above = n.checked_sub(self.words).map_or(0, |n| beside[n]);
            let below = beside.get(n + self.words).copied().unwrap_or(0);
            combine(combine(across[n], above), below)
        });
        Self {
            data: data.collect(),
            ..*self
        }
    }

    pub(crate) fn shrunk(&self, reach: Reach) -> Self {
        self.step(reach, |a, b| a & b)
    }

    /// Grown by a pixel, but only onto pixels of `within`.
    pub(crate) fn grown(&self, reach: Reach, within: &Self) -> Self {
        let mut grown = self.step(reach, |a, b| a | b);
        for (word, allowed) in grown.data.iter_mut().zip(&within.data) {
            *word &= allowed;
        }
        grown
    }

    fn inverted(&self) -> Self {
        let last = match self.columns % 64 {
            0 => u64::MAX,
            used => (1 << used) - 1,
        };
        let mask = |n: usize| {
            if (n + 1).is_multiple_of(self.words) {
                last
            } else {
                u64::MAX
            }
        };
        Self {
            data: self.data.iter().enumerate().map(|(n, word)| !word & mask(n)).collect(),
            ..*self
        }
    }

    pub(crate) fn set(&mut self, row: usize, columns: std::ops::Range<usize>) {
        for column in columns {
            self.data[row * self.words + column / 64] |= 1 << (column % 64);
        }
    }

    /// How many pixels of a row are set between two columns.
    pub(crate) fn count(&self, row: usize, columns: std::ops::Range<usize>) -> usize {
        let set = |column: &usize| self.data[row * self.words + column / 64] >> (column % 64) & 1 == 1;
        columns.filter(set).count()
    }

    /// The runs of set pixels of a row, as column ranges.
    pub(crate) fn runs(&self, row: usize) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let words = self.row(row);
        // First column at or after `from` whose bit, flipped where clear ones are sought, is set.
        let next = move |from: usize, flip: u64| {
            let mut at = from;
            while let Some(word) = words.get(at / 64) {
                let rest = (word ^ flip) >> (at % 64);
                if rest != 0 {
                    return Some(at + rest.trailing_zeros() as usize);
                }
                at = (at / 64 + 1) * 64;
            }
            None
        };
        let columns = self.columns;
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = next(at, 0)?;
            let end = next(start, u64::MAX).unwrap_or(columns).min(columns);
            at = end;
            Some(start..end)
        })
    }

    /// Sets the background that the slice's border does not reach (4-connectivity).
    pub(crate) fn fill_holes(&mut self) {
        let background = self.inverted();
        let pieces = Pieces::of(std::slice::from_ref(&background));
        let mut open = vec![false; pieces.parents.len()];
        let (last_row, last_column) = (self.rows.saturating_sub(1), self.columns);
        for run in &pieces.runs {
            if run.row == 0 || run.row == last_row || run.columns.start == 0 || run.columns.end == last_column {
                open[pieces.root(run)] = true;
            }
        }
        for run in pieces.runs.iter().filter(|run| !open[pieces.root(run)]) {
            self.set(run.row, run.columns.clone());
        }
    }
}

/// Neighbouring pixels of a row.
pub(crate) struct Run {
    pub slice: usize,
    pub row: usize,
    pub columns: std::ops::Range<usize>,
    label: usize,
}

/// The pieces of a stack whose pixels touch by faces (6-connectivity; 4 within a single slice).
pub(crate) struct Pieces {
    /// In order of slice, row and column.
    pub runs: Vec<Run>,
    /// Union-find over labels; a label that is its own parent stands for its piece.
    pub parents: Vec<usize>,
}

impl Pieces {
    pub(crate) fn of(stack: &[Bits]) -> Self {
        let mut pieces = Self {
            runs: Vec::new(),
            parents: Vec::new(),
        };
        let mut slice_before: Vec<std::ops::Range<usize>> = Vec::new();
        for (slice, bits) in stack.iter().enumerate() {
            let mut rows: Vec<std::ops::Range<usize>> = Vec::with_capacity(bits.rows);
            for row in 0..bits.rows {
                let first = pieces.runs.len();
                for columns in bits.runs(row) {
                    let label = pieces.parents.len();
                    pieces.parents.push(label);
                    pieces.runs.push(Run {
                        slice,
                        row,
                        columns,
                        label,
                    });
                }
                let own = first..pieces.runs.len();
                if let Some(above) = rows.last() {
                    pieces.join(above.clone(), own.clone());
                }
                if let Some(behind) = slice_before.get(row) {
                    pieces.join(behind.clone(), own.clone());
                }
                rows.push(own);
            }
            slice_before = rows;
        }
        // One look-up per run from here on.
        for label in 0..pieces.parents.len() {
            pieces.parents[label] = pieces.find(label);
        }
        pieces
    }

    /// The label that stands for the piece a run belongs to.
    pub(crate) fn root(&self, run: &Run) -> usize {
        self.parents[run.label]
    }

    /// Joins the runs of two rows where they overlap.
    fn join(&mut self, one: std::ops::Range<usize>, other: std::ops::Range<usize>) {
        let (mut a, mut b) = (one.start, other.start);
        while a < one.end && b < other.end {
            let (left, right) = (self.runs[a].columns.clone(), self.runs[b].columns.clone());
            if left.start < right.end && right.start < left.end {
                let (left, right) = (self.find(self.runs[a].label), self.find(self.runs[b].label));
                // The lower label stands for both, so that the outcome does not hang on the order.
                self.parents[left.max(right)] = left.min(right);
            }
            if left.end < right.end {
                a += 1;
            } else {
                b += 1;
            }
        }
    }

    fn find(&mut self, label: usize) -> usize {
        let mut root = label;
        while self.parents[root] != root {
            // Every other label on the way is moved up a step.
            self.parents[root] = self.parents[self.parents[root]];
            root = self.parents[root];
        }
        root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(rows: &[&str]) -> Bits {
        let pixels: Vec<u8> = rows.iter().flat_map(|row| row.bytes()).collect();
        Bits::of(&pixels, rows[0].len(), |pixel| pixel == b'#')
    }

    fn drawn(bits: &Bits) -> Vec<String> {
        let row = |row: usize| {
            let letter = |column| {
                if bits.count(row, column..column + 1) == 1 {
                    '#'
                } else {
                    '.'
                }
            };
            (0..bits.columns).map(letter).collect()
        };
        (0..bits.rows).map(row).collect()
    }

    /// Wider than a word, with runs that begin, end and cross at its edge.
    fn wide() -> Bits {
        let row = |ranges: &[[usize; 2]]| -> String {
            let inside = |column| ranges.iter().any(|range| (range[0]..range[1]).contains(&column));
            (0..130).map(|column| if inside(column) { '#' } else { '.' }).collect()
        };
        let rows = [
            row(&[[0, 130]]),
            row(&[[3, 64], [64, 66], [70, 130]]),
            row(&[[0, 1], [60, 128]]),
        ];
        bits(&rows.each_ref().map(String::as_str))
    }

    #[test]
    fn runs_are_found_across_words() {
        let wide = wide();
        let runs = |row| wide.runs(row).collect::<Vec<_>>();
        assert!(runs(0).into_iter().eq(std::iter::once(0..130)));
        assert_eq!(runs(1), [3..66, 70..130]);
        assert_eq!(runs(2), [0..1, 60..128]);
    }

    #[test]
    fn shrinking_and_growing_do_what_one_pixel_at_a_time_does() {
        let wide = wide();
        for reach in [Reach::Cross, Reach::Box] {
            let at = |row: isize, column: isize| {
                let inside = (0..3).contains(&row) && (0..130).contains(&column);
                inside && wide.count(row as usize, column as usize..column as usize + 1) == 1
            };
            let near: Vec<(isize, isize)> = (0..9)
                .map(|n| (n / 3 - 1, n % 3 - 1))
                .filter(|(y, x)| reach == Reach::Box || *y == 0 || *x == 0)
                .collect();
            let mut everything = wide.empty();
            (0..3).for_each(|row| everything.set(row, 0..130));
            let (shrunk, grown) = (wide.shrunk(reach), wide.grown(reach, &everything));
            for n in 0..390isize {
                let (row, column) = (n / 130, n % 130);
                let mut around = near.iter().map(|(y, x)| at(row + y, column + x));
                let here = |bits: &Bits| bits.count(row as usize, column as usize..column as usize + 1) == 1;
                assert_eq!(here(&grown), around.clone().any(|v| v), "{row} {column}");
                assert_eq!(here(&shrunk), around.all(|v| v), "{row} {column}");
            }
        }
    }

    #[test]
    fn holes_are_filled_and_bays_kept() {
        let mut slice = bits(&["#####", "#.#..", "#####", "#...#", "##.##"]);
        slice.fill_holes();
        assert_eq!(drawn(&slice), ["#####", "###..", "#####", "#...#", "##.##"]);
    }

    #[test]
    fn pieces_join_through_slices_by_faces_only() {
        let stack = [
            bits(&["##...", "....#"]),
            bits(&[".#...", "#..#."]),
            bits(&[".##..", "....#"]),
        ];
        let pieces = Pieces::of(&stack);
        let roots: Vec<usize> = pieces.runs.iter().map(|run| pieces.root(run)).collect();
        assert_eq!(roots, [0, 1, 0, 3, 4, 0, 6]);
    }
}
