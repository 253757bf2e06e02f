//! One slice of a mask → closed polygons on the voxel edges, so that the polygons' area is the mask's area.
//!
//! Voxels that touch only at a corner belong to different polygons (4-connected inside, 8-connected outside), so no polygon
//! crosses itself. A hole becomes a keyhole (PS3.3 C.8.8.6.3): the outline runs to the hole along a channel of no width, around
//! it, and back. The channel lies a quarter of a voxel off the voxel centres, so that a reader that asks "is this centre inside?"
//! never meets it. Or it stays a contour of its own, for receivers that take the exclusive or of all contours.

use crate::results::simplify::{self, Tolerance};
use crate::results::style::Holes;
use ndarray::{Array2, ArrayView2};

/// Column and row of a polygon corner; a voxel's centre is at whole numbers, its edges at halves.
pub type Corner = [f64; 2];

/// A closed polygon; the first corner is not repeated. Outlines run one way round, counter-clockwise with rows growing upwards;
/// holes the other way.
pub type Polygon = Vec<Corner>;

/// How a slice is to be outlined.
pub struct Drawing<'a> {
    pub holes: Holes,
    /// `None` keeps every corner.
    pub tolerance: Option<Tolerance>,
    /// A receiver's limit on Contour Data: a piece with a contour that this refuses is cut at a row into two that touch. It must
    /// accept a rectangle: that is what a piece one row high ends as.
    pub fits: &'a dyn Fn(&Polygon) -> bool,
}

/// The contours of a slice.
#[derive(Debug, Default)]
pub struct Outline {
    pub contours: Vec<Polygon>,
    /// Greatest distance of a contour from the voxel edges.
    pub deviation_mm: f64,
}

/// Outlines a slice `[row, column]`. Where simplified contours would cross, the slice's stay exact.
pub fn outline(slice: ArrayView2<'_, bool>, drawing: &Drawing<'_>) -> Outline {
    let simplified = drawing.tolerance.as_ref().and_then(|_| {
        let parts = parts(slice, drawing, drawing.tolerance.as_ref())?;
        let crossed = simplify::cross(parts.iter().flat_map(|part| &part.loops));
        (!crossed).then_some(parts)
    });
    let parts = simplified
        .or_else(|| parts(slice, drawing, None))
        .expect("a hole on voxel edges lies inside its outline");
    let mut outline = Outline::default();
    for part in parts {
        outline.contours.extend(part.contours);
        outline.deviation_mm = outline.deviation_mm.max(part.deviation_mm);
    }
    outline
}

/// A piece of a slice, drawn.
struct Part {
    /// Its outline, then its holes.
    loops: Vec<Polygon>,
    contours: Vec<Polygon>,
    deviation_mm: f64,
}

/// Draws piece by piece, cut where a contour does not fit. `None` when a simplified hole has left its outline.
fn parts(slice: ArrayView2<'_, bool>, drawing: &Drawing<'_>, tolerance: Option<&Tolerance>) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    for piece in pieces(slice) {
        let part = piece.draw(drawing.holes, tolerance)?;
        if piece.rows == 1 || part.contours.iter().all(drawing.fits) {
            parts.push(part);
            continue;
        }
        for (row, half) in piece.halves() {
            for mut part in self::parts(half.view(), drawing, tolerance)? {
                let polygons = part.loops.iter_mut().chain(&mut part.contours);
                polygons.for_each(|polygon| shift(polygon, piece.column as f64, row as f64));
                parts.push(part);
            }
        }
    }
    Some(parts)
}

fn shift(polygon: &mut Polygon, columns: f64, rows: f64) {
    polygon
        .iter_mut()
        .for_each(|[x, y]| (*x, *y) = (*x + columns, *y + rows));
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

    /// The piece's outline and holes in the coordinates of the whole slice, exact or within a tolerance, as contours.
    fn draw(&self, holes: Holes, tolerance: Option<&Tolerance>) -> Option<Part> {
        let mut deviation_mm = 0.0f64;
        let mut loops = self.placed_loops();
        for polygon in &mut loops {
            if let Some((simple, deviation)) = tolerance.and_then(|t| simplify::simplify(polygon, t)) {
                *polygon = simple;
                deviation_mm = deviation_mm.max(deviation);
            }
        }
        let contours = match holes {
            Holes::Keyhole => vec![keyed(&loops)?],
            Holes::Xor => loops.clone(),
        };
        Some(Part {
            loops,
            contours,
            deviation_mm,
        })
    }

    /// The exact loops, the outline first.
    fn placed_loops(&self) -> Vec<Polygon> {
        let mut loops = self.loops();
        // The signed area tells outline from holes: the outline encloses the voxels, each hole runs the other way.
        let outer = loops.iter().position(|l| doubled_area(l) > 0);
        loops[..=outer.expect("a piece has one outline")].rotate_right(1);
        let place = |corners: Vec<[isize; 2]>| {
            let mut polygon: Polygon = corners.into_iter().map(|[x, y]| [x as f64, y as f64]).collect();
            shift(&mut polygon, self.column as f64 - 0.5, self.row as f64 - 0.5);
            polygon
        };
        loops.into_iter().map(place).collect()
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

/// An outline with its holes keyed in.
fn keyed(loops: &[Polygon]) -> Option<Polygon> {
    let mut polygon = loops[0].clone();
    let holes = loops[1..].iter().map(|hole| Some((channel(hole)?, hole)));
    let mut holes: Vec<(Channel, &Polygon)> = holes.collect::<Option<_>>()?;
    // From the left, so that whatever lies between a hole and the outline has been keyed in before.
    holes.sort_by(|(a, _), (b, _)| a.x.total_cmp(&b.x).then(a.height.total_cmp(&b.height)));
    for (channel, hole) in holes {
        key_in(&mut polygon, hole, &channel)?;
    }
    Some(polygon)
}

/// Where a channel meets a hole.
struct Channel {
    x: f64,
    height: f64,
    /// The edge it meets: the number of its first corner.
    edge: usize,
}

/// The leftmost place of a hole at a height a quarter of a voxel above a voxel edge, where no voxel centre lies.
fn channel(hole: &[Corner]) -> Option<Channel> {
    let mut found: Option<Channel> = None;
    for edge in 0..hole.len() {
        let (a, b) = (hole[edge], hole[(edge + 1) % hole.len()]);
        let (low, high) = (a[1].min(b[1]), a[1].max(b[1]));
        // Voxel edges lie at halves.
        let mut height = (low - 0.75).ceil() + 0.75;
        while height <= high {
            if let Some(x) = crossing(a, b, height)
                && found.as_ref().is_none_or(|c| (x, height) < (c.x, c.height))
            {
                found = Some(Channel { x, height, edge });
            }
            height += 1.0;
        }
    }
    found
}

/// Where an edge crosses a height.
fn crossing([x0, y0]: Corner, [x1, y1]: Corner, height: f64) -> Option<f64> {
    ((y0 > height) != (y1 > height)).then(|| x0 + (height - y0) / (y1 - y0) * (x1 - x0))
}

/// Joins a hole to the polygon by a channel that runs left to the nearest edge. `None` when there is none.
fn key_in(polygon: &mut Polygon, hole: &[Corner], channel: &Channel) -> Option<()> {
    let height = channel.height;
    let edges = (0..polygon.len()).filter_map(|n| {
        let x = crossing(polygon[n], polygon[(n + 1) % polygon.len()], height)?;
        (x < channel.x).then_some((n, x))
    });
    let (crossed, x) = edges.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let mut inserted = vec![[x, height], [channel.x, height]];
    inserted.extend((1..=hole.len()).map(|n| hole[(channel.edge + n) % hole.len()]));
    inserted.extend([[channel.x, height], [x, height]]);
    polygon.splice(crossed + 1..crossed + 1, inserted);
    Some(())
}

/// The area a polygon encloses, in voxels: that of a hole is negative. Both sides of a keyhole's channel cancel.
pub fn area(polygon: &[Corner]) -> f64 {
    let after = polygon.iter().cycle().skip(1);
    polygon
        .iter()
        .zip(after)
        .map(|([x0, y0], [x1, y1])| x0 * y1 - x1 * y0)
        .sum::<f64>()
        / 2.0
}

/// The exact outline and holes of every piece.
#[cfg(test)]
pub(crate) fn loops(slice: ArrayView2<'_, bool>) -> Vec<Vec<Polygon>> {
    pieces(slice).iter().map(Piece::placed_loops).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outline(slice: ArrayView2<'_, bool>, fits: &dyn Fn(&Polygon) -> bool) -> Vec<Polygon> {
        drawn(slice, Holes::Keyhole, None, fits).contours
    }

    fn drawn(
        slice: ArrayView2<'_, bool>,
        holes: Holes,
        tolerance: Option<Tolerance>,
        fits: &dyn Fn(&Polygon) -> bool,
    ) -> Outline {
        super::outline(slice, &Drawing { holes, tolerance, fits })
    }

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

    #[test]
    fn holes_of_their_own_are_the_exclusive_or() {
        let ring = picture(&[
            "#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######",
        ]);
        let polygons = drawn(ring.view(), Holes::Xor, None, ALL).contours;
        assert_eq!(polygons.len(), 4);
        check_xor(&ring, &polygons);
    }

    fn check_xor(slice: &Array2<bool>, polygons: &[Polygon]) {
        let total: f64 = polygons.iter().map(|p| area(p)).sum();
        let voxels = slice.iter().filter(|v| **v).count() as f64;
        assert!((total - voxels).abs() < 1e-6 * voxels.max(1.0), "{total} {voxels}");
        for ((r, c), wanted) in slice.indexed_iter() {
            let odd = polygons.iter().filter(|p| inside(p, c as f64, r as f64)).count() % 2 == 1;
            assert_eq!(odd, *wanted, "row {r} column {c}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        #[test]
        fn no_voxel_centre_changes_sides_however_contours_are_drawn(
            (columns, bits) in (9usize..26).prop_flat_map(|w| (Just(w), prop::collection::vec(prop::bool::weighted(0.8), w..w * 22))),
            wanted_mm in 0.1f64..2.0,
            spacing_mm in prop::array::uniform2(0.5f64..1.5),
        ) {
            let rows = bits.len() / columns;
            // Blocks of three voxels make loops long enough to be simplified.
            let slice = Array2::from_shape_fn((rows * 3, columns * 3), |(r, c)| bits[r / 3 * columns + c / 3]);
            let tolerance = Tolerance::new(wanted_mm, spacing_mm);
            for holes in [Holes::Keyhole, Holes::Xor] {
                for (tolerance, fits) in [(tolerance, ALL), (None, ALL), (tolerance, &|p: &Polygon| p.len() <= 24)] {
                    let outline = drawn(slice.view(), holes, tolerance, fits);
                    check_xor(&slice, &outline.contours);
                    assert!(outline.deviation_mm <= wanted_mm + 1e-12);
                    assert!(tolerance.is_some() || outline.deviation_mm == 0.0);
                    assert!(holes == Holes::Keyhole || tolerance.is_none() || outline.deviation_mm == 0.0 || !simplify::cross(outline.contours.iter()));
                }
            }
        }

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
