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
        if piece.rows() == 1 || fits(&polygon) {
            polygons.push(polygon);
        } else {
            let (upper, lower) = piece.cut();
            for part in [upper, lower] {
                for mut polygon in outline(part.voxels.view(), fits) {
                    polygon.iter_mut().for_each(|[x, y]| {
                        *x += part.column as f64;
                        *y += part.row as f64;
                    });
                    polygons.push(polygon);
                }
            }
        }
    }
    polygons
}

/// A 4-connected set of voxels, in its own bounding rectangle.
struct Piece {
    column: usize,
    row: usize,
    voxels: Array2<bool>,
}

/// Splits a slice into its 4-connected pieces, in the order of their first voxel.
fn pieces(slice: ArrayView2<'_, bool>) -> Vec<Piece> {
    let (rows, columns) = slice.dim();
    let mut seen = Array2::from_elem((rows, columns), false);
    let mut found = Vec::new();
    for ((row, column), inside) in slice.indexed_iter() {
        if !inside || seen[[row, column]] {
            continue;
        }
        seen[[row, column]] = true;
        let mut members = vec![[row, column]];
        let mut next = 0;
        while let Some([r, c]) = members.get(next).copied() {
            next += 1;
            for [r, c] in [[r.wrapping_sub(1), c], [r + 1, c], [r, c.wrapping_sub(1)], [r, c + 1]] {
                if r < rows && c < columns && slice[[r, c]] && !seen[[r, c]] {
                    seen[[r, c]] = true;
                    members.push([r, c]);
                }
            }
        }
        found.push(Piece::from_members(&members));
    }
    found
}

impl Piece {
    fn from_members(members: &[[usize; 2]]) -> Self {
        let bound = |axis: usize| {
            let along = members.iter().map(|m| m[axis]);
            (along.clone().min().unwrap_or(0), along.max().unwrap_or(0))
        };
        let ((row, last_row), (column, last_column)) = (bound(0), bound(1));
        let mut voxels = Array2::from_elem((last_row - row + 1, last_column - column + 1), false);
        for [r, c] in members {
            voxels[[r - row, c - column]] = true;
        }
        Self { column, row, voxels }
    }

    fn rows(&self) -> usize {
        self.voxels.nrows()
    }

    fn cut(&self) -> (Self, Self) {
        let middle = self.rows() / 2;
        let part = |from: usize, to: usize| Self {
            column: self.column,
            row: self.row + from,
            voxels: self.voxels.slice(ndarray::s![from..to, ..]).to_owned(),
        };
        (part(0, middle), part(middle, self.rows()))
    }

    fn at(&self, row: isize, column: isize) -> bool {
        let (rows, columns) = self.voxels.dim();
        (0..rows as isize).contains(&row)
            && (0..columns as isize).contains(&column)
            && self.voxels[[row as usize, column as usize]]
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
        for [x, y] in &mut polygon {
            *x += self.column as f64 - 0.5;
            *y += self.row as f64 - 0.5;
        }
        polygon
    }

    /// The boundary loops on the voxel edges, corners only. Voxel (row, column) covers x in [column, column + 1]; the inside
    /// lies to the left of the direction of travel, seen with y growing upwards.
    fn loops(&self) -> Vec<Vec<[isize; 2]>> {
        let (rows, columns) = self.voxels.dim();
        // One bit per direction that leaves a corner: 0 = +x, 1 = +y, 2 = −x, 3 = −y.
        let mut leaving = Array2::from_elem((rows + 1, columns + 1), 0u8);
        for ((row, column), _) in self.voxels.indexed_iter().filter(|(_, inside)| **inside) {
            let (y, x) = (row as isize, column as isize);
            if !self.at(y - 1, x) {
                leaving[[row, column]] |= 1;
            }
            if !self.at(y, x + 1) {
                leaving[[row, column + 1]] |= 2;
            }
            if !self.at(y + 1, x) {
                leaving[[row + 1, column + 1]] |= 4;
            }
            if !self.at(y, x - 1) {
                leaving[[row + 1, column]] |= 8;
            }
        }
        let mut loops = Vec::new();
        for row in 0..=rows {
            for column in 0..=columns {
                while leaving[[row, column]] != 0 {
                    loops.push(walk(&mut leaving, [column as isize, row as isize]));
                }
            }
        }
        loops
    }
}

const STEPS: [[isize; 2]; 4] = [[1, 0], [0, 1], [-1, 0], [0, -1]];

/// Follows edges from `start` until the loop closes, taking them out of `leaving`; only corners where it turns are kept.
fn walk(leaving: &mut Array2<u8>, start: [isize; 2]) -> Vec<[isize; 2]> {
    let at = |[x, y]: [isize; 2]| [y as usize, x as usize];
    let first = leaving[at(start)].trailing_zeros() as usize;
    let (mut place, mut direction) = (start, first);
    let mut corners = Vec::new();
    loop {
        leaving[at(place)] &= !(1 << direction);
        place = [place[0] + STEPS[direction][0], place[1] + STEPS[direction][1]];
        if place == start && (leaving[at(place)] >> ((direction + 1) % 4) & 1 == 0) {
            if direction != first {
                corners.push(place);
            }
            return corners;
        }
        // Turning left first keeps to the same voxel where two meet at a corner.
        let next = [1, 0, 3].map(|turn| (direction + turn) % 4);
        let next = next
            .into_iter()
            .find(|d| leaving[at(place)] >> d & 1 == 1)
            .expect("every edge has a successor");
        if next != direction {
            corners.push(place);
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
