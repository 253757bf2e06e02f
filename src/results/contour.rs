//! One slice of a mask → closed polygons on the voxel edges, so that the polygons' area is the mask's area.
//!
//! Voxels that touch only at a corner belong to different polygons (4-connected inside, 8-connected outside), so no polygon
//! crosses itself. A hole becomes a keyhole (PS3.3 C.8.8.6.3): the outline runs to the hole along a channel of no width, around
//! it, and back. The channel lies a quarter of a voxel off the voxel centres, so that a reader that asks "is this centre inside?"
//! never meets it.

use ndarray::{Array2, ArrayView2};

/// Column and row of a polygon corner; a voxel's centre is at whole numbers, its edges at halves.
pub type Corner = [f64; 2];

/// A closed polygon; the first corner is not repeated. Outlines run one way round, counter-clockwise with rows growing upwards.
pub type Polygon = Vec<Corner>;

/// Traces the outline of a slice `[row, column]`.
///
/// A piece whose polygon `fits` refuses (a receiver's limit on Contour Data, say) is cut at a row into two that touch.
/// `fits` must accept a rectangle: that is what a piece one row high ends as.
pub fn outline(slice: ArrayView2<'_, bool>, fits: &dyn Fn(&Polygon) -> bool) -> Vec<Polygon> {
    let mut polygons = Vec::new();
    for piece in pieces(slice) {
        let polygon = piece.polygon();
        if piece.rows == 1 || fits(&polygon) {
            polygons.push(polygon);
            continue;
        }
        for (row, half) in piece.halves() {
            let parts = outline(half.view(), fits).into_iter();
            polygons.extend(parts.map(|part| shifted(part, piece.column as f64, row as f64)));
        }
    }
    polygons
}

fn shifted(mut polygon: Polygon, columns: f64, rows: f64) -> Polygon {
    polygon
        .iter_mut()
        .for_each(|[x, y]| (*x, *y) = (*x + columns, *y + rows));
    polygon
}

/// A 4-connected set of voxels, in its own bounding rectangle with a margin of one voxel, so that neighbours need no bounds.
struct Piece {
    column: usize,
    row: usize,
    rows: usize,
    columns: usize,
    /// Row by row, margin included: `(rows + 2) × (columns + 2)`.
    cells: Vec<bool>,
}

/// Splits a slice into its 4-connected pieces, in the order of their first voxel.
fn pieces(slice: ArrayView2<'_, bool>) -> Vec<Piece> {
    let (rows, columns) = slice.dim();
    let width = columns + 2;
    let mut left = vec![false; (rows + 2) * width];
    for (row, line) in slice.outer_iter().enumerate() {
        let start = (row + 1) * width + 1;
        left[start..start + columns]
            .iter_mut()
            .zip(line)
            .for_each(|(cell, inside)| *cell = *inside);
    }
    let mut found = Vec::new();
    for first in 0..left.len() {
        if !std::mem::take(&mut left[first]) {
            continue;
        }
        let mut members = vec![first];
        let mut next = 0;
        while let Some(cell) = members.get(next).copied() {
            next += 1;
            for neighbour in [cell - width, cell - 1, cell + 1, cell + width] {
                if std::mem::take(&mut left[neighbour]) {
                    members.push(neighbour);
                }
            }
        }
        found.push(Piece::from_members(&members, width));
    }
    found
}

impl Piece {
    /// From cells of a slice with a margin, `width` cells a row.
    fn from_members(members: &[usize], width: usize) -> Self {
        let bound = |along: &dyn Fn(usize) -> usize| {
            members.iter().fold((usize::MAX, 0), |(low, high), m| {
                (low.min(along(*m)), high.max(along(*m)))
            })
        };
        let ((top, bottom), (left, right)) = (bound(&|m| m / width), bound(&|m| m % width));
        let (rows, columns) = (bottom - top + 1, right - left + 1);
        let mut cells = vec![false; (rows + 2) * (columns + 2)];
        for m in members {
            cells[(m / width - top + 1) * (columns + 2) + m % width - left + 1] = true;
        }
        Self {
            column: left - 1,
            row: top - 1,
            rows,
            columns,
            cells,
        }
    }

    /// The upper and the lower half, with the row each begins at.
    fn halves(&self) -> [(usize, Array2<bool>); 2] {
        let middle = self.rows / 2;
        [(0, middle), (middle, self.rows)].map(|(from, to)| {
            let inside = |(r, c)| self.cells[(from + r + 1) * (self.columns + 2) + c + 1];
            (
                self.row + from,
                Array2::from_shape_fn((to - from, self.columns), inside),
            )
        })
    }

    /// The piece's outline with its holes keyed in, in the coordinates of the whole slice.
    fn polygon(&self) -> Polygon {
        let mut loops = self.loops();
        // Twice the signed area tells outline from holes: the outline encloses the voxels, each hole runs the other way.
        let outer = loops
            .iter()
            .position(|l| doubled_area(l) > 0)
            .expect("a piece has one outline");
        let mut polygon: Polygon = loops
            .swap_remove(outer)
            .into_iter()
            .map(|[x, y]| [x as f64, y as f64])
            .collect();
        // From the left, so that whatever lies between a hole and the outline has been keyed in before.
        loops.sort_by_key(|l| l.iter().map(|[x, y]| (*x, *y)).min());
        for hole in loops {
            key_in(&mut polygon, &hole);
        }
        shifted(polygon, self.column as f64 - 0.5, self.row as f64 - 0.5)
    }

    /// The boundary loops on the voxel edges, corners only. Voxel (row, column) covers x in [column, column + 1]; the inside
    /// lies to the left of the direction of travel, seen with y growing upwards.
    fn loops(&self) -> Vec<Vec<[isize; 2]>> {
        let (width, stride) = (self.columns + 2, self.columns + 1);
        // One bit per direction that leaves a corner: 0 = +x, 1 = +y, 2 = −x, 3 = −y.
        let mut leaving = vec![0u8; (self.rows + 1) * stride];
        for row in 0..self.rows {
            for column in 0..self.columns {
                let (cell, corner) = ((row + 1) * width + column + 1, row * stride + column);
                if !self.cells[cell] {
                    continue;
                }
                leaving[corner] |= u8::from(!self.cells[cell - width]);
                leaving[corner + 1] |= u8::from(!self.cells[cell + 1]) << 1;
                leaving[corner + stride + 1] |= u8::from(!self.cells[cell + width]) << 2;
                leaving[corner + stride] |= u8::from(!self.cells[cell - 1]) << 3;
            }
        }
        let mut loops = Vec::new();
        for corner in 0..leaving.len() {
            while leaving[corner] != 0 {
                loops.push(walk(&mut leaving, stride, corner));
            }
        }
        loops
    }
}

/// Follows edges from `start` until the loop closes, taking them out of `leaving`; only corners where it turns are kept.
fn walk(leaving: &mut [u8], stride: usize, start: usize) -> Vec<[isize; 2]> {
    let steps = [1, stride as isize, -1, -(stride as isize)];
    let corner = |place: usize| [(place % stride) as isize, (place / stride) as isize];
    let first = leaving[start].trailing_zeros() as usize;
    let (mut place, mut direction) = (start, first);
    let mut corners = Vec::new();
    loop {
        leaving[place] &= !(1 << direction);
        place = place.wrapping_add_signed(steps[direction]);
        if place == start && leaving[place] >> ((direction + 1) % 4) & 1 == 0 {
            if direction != first {
                corners.push(corner(place));
            }
            return corners;
        }
        // Turning left first keeps to the same voxel where two meet at a corner.
        let next = [1, 0, 3].map(|turn| (direction + turn) % 4);
        let next = next
            .into_iter()
            .find(|d| leaving[place] >> d & 1 == 1)
            .expect("every edge has a successor");
        if next != direction {
            corners.push(corner(place));
        }
        direction = next;
    }
}

fn doubled_area(corners: &[[isize; 2]]) -> isize {
    let after = corners.iter().cycle().skip(1);
    corners
        .iter()
        .zip(after)
        .map(|([x0, y0], [x1, y1])| x0 * y1 - x1 * y0)
        .sum()
}

/// Joins a hole to the polygon by a channel that runs left from the hole's leftmost edge.
fn key_in(polygon: &mut Polygon, hole: &[[isize; 2]]) {
    let edges = |n: usize, length: usize| (n, (n + 1) % length);
    // The leftmost vertical edge of the hole, and a height on it that no corner and no voxel centre has.
    let leftmost = (0..hole.len())
        .filter(|n| hole[*n][0] == hole[(n + 1) % hole.len()][0])
        .min_by_key(|n| (hole[*n][0], hole[*n][1].min(hole[(n + 1) % hole.len()][1])))
        .expect("a hole has vertical edges");
    let (from, to) = edges(leftmost, hole.len());
    let height = hole[from][1].min(hole[to][1]) as f64 + 0.25;
    let hole_x = hole[from][0] as f64;
    // The nearest vertical edge of the polygon to the left at that height.
    let crossed = (0..polygon.len())
        .filter(|n| {
            let ([x0, y0], [x1, y1]) = (polygon[*n], polygon[(n + 1) % polygon.len()]);
            x0 == x1 && x0 < hole_x && y0.min(y1) < height && height < y0.max(y1)
        })
        .max_by(|a, b| polygon[*a][0].total_cmp(&polygon[*b][0]))
        .expect("a hole lies inside its outline");
    let mut channel = vec![[polygon[crossed][0], height], [hole_x, height]];
    channel.extend(
        (0..hole.len())
            .map(|n| hole[(to + n) % hole.len()])
            .map(|[x, y]| [x as f64, y as f64]),
    );
    channel.extend([[hole_x, height], [polygon[crossed][0], height]]);
    polygon.splice(crossed + 1..crossed + 1, channel);
}

/// The area a polygon encloses, in voxels. Both sides of a keyhole's channel cancel.
pub fn area(polygon: &[Corner]) -> f64 {
    let after = polygon.iter().cycle().skip(1);
    polygon
        .iter()
        .zip(after)
        .map(|([x0, y0], [x1, y1])| x0 * y1 - x1 * y0)
        .sum::<f64>()
        / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: &dyn Fn(&Polygon) -> bool = &|_| true;

    fn picture(rows: &[&str]) -> Array2<bool> {
        Array2::from_shape_fn((rows.len(), rows[0].len()), |(r, c)| rows[r].as_bytes()[c] == b'#')
    }

    /// Even-odd test of a voxel centre, written apart from the tracer.
    fn inside(polygon: &[Corner], x: f64, y: f64) -> bool {
        (0..polygon.len()).fold(false, |odd, n| {
            let ([x0, y0], [x1, y1]) = (polygon[n], polygon[(n + 1) % polygon.len()]);
            odd ^ ((y0 > y) != (y1 > y) && x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
        })
    }

    fn check(slice: &Array2<bool>, polygons: &[Polygon]) {
        let voxels = slice.iter().filter(|v| **v).count() as f64;
        let total: f64 = polygons.iter().map(|p| area(p)).sum();
        assert!((total - voxels).abs() < 1e-9, "{total} {voxels}");
        for polygon in polygons {
            assert!(polygon.len() >= 4 && area(polygon) > 0.0);
        }
        for ((r, c), wanted) in slice.indexed_iter() {
            let holders = polygons.iter().filter(|p| inside(p, c as f64, r as f64)).count();
            assert_eq!(holders, usize::from(*wanted), "row {r} column {c}");
        }
    }

    #[test]
    fn one_voxel_is_a_square_around_its_centre() {
        let polygons = outline(picture(&["...", ".#.", "..."]).view(), ALL);
        assert_eq!(polygons, vec![vec![[1.5, 0.5], [1.5, 1.5], [0.5, 1.5], [0.5, 0.5]]]);
    }

    #[test]
    fn voxels_that_touch_at_a_corner_are_two_polygons_and_islands_are_separate() {
        for rows in [&["#.", ".#"], &[".#", "#."]] {
            assert_eq!(outline(picture(rows).view(), ALL).len(), 2);
        }
        let islands = picture(&["##...", "##.##", "...##"]);
        let polygons = outline(islands.view(), ALL);
        assert_eq!(polygons.len(), 2);
        check(&islands, &polygons);
    }

    #[test]
    fn holes_are_keyed_into_one_polygon() {
        let ring = picture(&[
            ".......", ".#####.", ".#.#.#.", ".#####.", ".#...#.", ".#####.", ".......",
        ]);
        let polygons = outline(ring.view(), ALL);
        assert_eq!(polygons.len(), 1);
        check(&ring, &polygons);
        // No channel runs through a voxel centre.
        assert!(polygons[0].iter().all(|[x, y]| x.fract() != 0.0 && y.fract() != 0.0));
    }

    #[test]
    fn a_hole_that_meets_the_outside_at_a_corner_stays_open() {
        let pinch = picture(&["####", "#.##", "##.#", "###."]);
        check(&pinch, &outline(pinch.view(), ALL));
        let island_in_hole = picture(&["#####", "#...#", "#.#.#", "#...#", "#####"]);
        let polygons = outline(island_in_hole.view(), ALL);
        assert_eq!(polygons.len(), 2);
        check(&island_in_hole, &polygons);
    }

    #[test]
    fn a_polygon_too_long_is_cut_without_losing_area() {
        let comb = Array2::from_shape_fn((60, 61), |(r, c)| r % 7 == 3 || c % 2 == 0);
        let polygons = outline(comb.view(), &|p| p.len() <= 100);
        assert!(polygons.len() > 3 && polygons.iter().all(|p| p.len() <= 100 || p.len() % 2 == 0));
        assert!(polygons.iter().all(|p| p.len() <= 100));
        check(&comb, &polygons);
    }

    proptest! {
        #[test]
        fn any_slice_is_outlined_exactly(
            (columns, bits) in (1usize..14).prop_flat_map(|w| (Just(w), prop::collection::vec(prop::bool::weighted(0.6), w..w * 14)))
        ) {
            let rows = bits.len() / columns;
            let slice = Array2::from_shape_vec((rows, columns), bits[..rows * columns].to_vec()).unwrap();
            check(&slice, &outline(slice.view(), ALL));
            check(&slice, &outline(slice.view(), &|p| p.len() <= 8));
        }
    }
}
