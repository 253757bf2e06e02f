//! Logits on key slices → voxels on the stored grid: interpolation, clean-up, and who gets a voxel that two structures claim.

use crate::mask::{self, Mask};
use crate::segment::link::Track;
use crate::segment::plane::{HAIR, Plane};
use crate::segment::prepare::{Frame, View, WindowIndex};
use crate::segment::rules::{Keys, Rules};
use crate::structure::{Linking, Pieces};
use ndarray::{Array2, Array3, ArrayView3, Axis};

/// The logit everywhere on a key slice where a structure was sought and not found. Mild, so that a slice half-way between it
/// and a sure one keeps the sure core.
const ABSENT: f32 = -3.0;

/// A structure is much smaller than one that has so many times its voxels.
const MUCH_SMALLER: usize = 2;

/// The stored slices, and how they, the view and the plane lie to each other.
pub struct Scene<'a> {
    pub view: View,
    pub frame: Frame,
    pub keys: Keys,
    pub rules: Rules,
    /// `[k, j, i]`
    pub hu: ArrayView3<'a, i16>,
}

/// A structure's voxels, before and after the others had their say.
struct Block {
    /// Grid index (i, j, k) of the first voxel.
    offset: [usize; 3],
    /// `[k, j, i]`
    voxels: Array3<bool>,
}

/// One structure among those that want a voxel.
struct Claim<'a, 'b> {
    track: &'a Track<'b>,
    /// Size of its mask before the others had their say.
    voxels: usize,
}

impl<'a, 'b> Claim<'a, 'b> {
    fn new((track, block): (&'a Track<'b>, &Block)) -> Self {
        let voxels = block.voxels.iter().filter(|v| **v).count();
        Self { track, voxels }
    }
}

/// A mask per track, in the order of `tracks`; `None` where nothing is left.
pub fn assemble(scene: &Scene<'_>, tracks: &[Track<'_>]) -> Vec<Option<Mask>> {
    let mut blocks: Vec<Block> = tracks.iter().map(|track| scene.block(track)).collect();
    for (block, track) in blocks.iter_mut().zip(tracks) {
        tidy(block, track);
    }
    scene.arbitrate(tracks, &mut blocks);
    let finish = |(block, track): (&mut Block, &Track<'_>)| {
        let structure = track.located.structure;
        if structure.pieces == Pieces::One {
            mask::keep_largest_piece(&mut block.voxels);
        }
        Mask::from_block(structure, block.offset, block.voxels.view())
    };
    blocks.iter_mut().zip(tracks).map(finish).collect()
}

/// Removes islands, and fills what a compact organ encloses.
fn tidy(block: &mut Block, track: &Track<'_>) {
    let structure = track.located.structure;
    if structure.pieces == Pieces::One {
        mask::keep_largest_piece(&mut block.voxels);
        if structure.linking == Linking::Propagate {
            block.voxels.axis_iter_mut(Axis(0)).for_each(mask::fill_holes);
        }
    }
}

/// Columns or rows of the view, each with the plane pixels it lies between and the share of the second.
type Weights = Vec<(usize, usize, f32)>;

impl Scene<'_> {
    /// The HU of slice k at a plane pixel.
    pub fn hu(&self, k: usize, plane: [usize; 2]) -> f32 {
        let shown = [0, 1].map(|axis| {
            let at = self.frame.to_view(axis, plane[axis] as f64).round().max(0.0) as usize;
            at.min(self.frame.view[axis] - 1)
        });
        let [i, j] = self.view.stored(shown);
        f32::from(self.hu[[k, j, i]])
    }

    fn weights(&self, axis: usize, [first, last]: [usize; 2]) -> Weights {
        let end = self.frame.last(axis).floor();
        let one = |position: usize| {
            let plane = self.frame.to_plane(axis, position as f64).clamp(0.0, end);
            let low = plane.floor();
            (low as usize, (low + 1.0).min(end) as usize, (plane - low) as f32)
        };
        (first..=last).map(one).collect()
    }

    /// Columns and rows of the view that the track may touch.
    fn region(&self, track: &Track<'_>) -> [[usize; 2]; 2] {
        [0, 1].map(|axis| {
            let last = self.frame.view[axis] - 1;
            let at = |plane: f64| self.frame.to_view(axis, plane).clamp(0.0, last as f64);
            let first = (at(track.clip.min[axis]) - HAIR).ceil() as usize;
            [first, ((at(track.clip.max[axis]) + HAIR).floor() as usize).max(first)]
        })
    }

    /// Every voxel of the track whose interpolated logit is positive.
    fn block(&self, track: &Track<'_>) -> Block {
        let [first, last] = track.slices;
        let region = self.region(track);
        let (across, down) = (self.weights(0, region[0]), self.weights(1, region[1]));
        let corners = [
            self.view.stored([region[0][0], region[1][0]]),
            self.view.stored([region[0][1], region[1][1]]),
        ];
        let low = [0, 1].map(|a| corners[0][a].min(corners[1][a]));
        let size = [0, 1].map(|a| corners[0][a].abs_diff(corners[1][a]) + 1);
        let mut voxels = Array3::from_elem((last - first + 1, size[1], size[0]), false);
        let mut shown: Vec<(usize, Option<Array2<f32>>)> = Vec::new();
        for k in first..=last {
            let around = self.keys.around(k);
            shown.retain(|(key, _)| around.contains(key));
            for key in around {
                if !shown.iter().any(|(have, _)| *have == key) {
                    shown.push((key, track.planes.get(&key).map(|plane| enlarge(plane, &across, &down))));
                }
            }
            let find = |key| {
                shown
                    .iter()
                    .find(|(have, _)| *have == key)
                    .and_then(|(_, plane)| plane.as_ref())
            };
            let (below, above) = (find(around[0]), find(around[1]));
            if below.is_none() && above.is_none() {
                continue;
            }
            let share = share(around, k);
            let mut slice = voxels.index_axis_mut(Axis(0), k - first);
            for v in 0..down.len() {
                for u in 0..across.len() {
                    let at = |plane: Option<&Array2<f32>>| plane.map_or(ABSENT, |plane| plane[[v, u]]);
                    if mix(at(below), at(above), share) > 0.0 {
                        let [i, j] = self.view.stored([region[0][0] + u, region[1][0] + v]);
                        slice[[j - low[1], i - low[0]]] = true;
                    }
                }
            }
        }
        Block {
            offset: [low[0], low[1], first],
            voxels,
        }
    }

    /// The interpolated logit of one voxel (i, j, k).
    fn logit(&self, track: &Track<'_>, [i, j, k]: [usize; 3]) -> f32 {
        let around = self.keys.around(k);
        let [u, v] = self.view.shown([i as f64, j as f64]).map(|p| p as usize);
        let (across, down) = (self.weights(0, [u, u]), self.weights(1, [v, v]));
        let at = |key| {
            track
                .planes
                .get(&key)
                .map_or(ABSENT, |plane| enlarge(plane, &across, &down)[[0, 0]])
        };
        mix(at(around[0]), at(around[1]), share(around, k))
    }

    /// Whether `a` has the better claim to a voxel than `b`: tissue of its own kind first, so that a mask that ran from the spleen
    /// into the lung, or the other way, takes nothing there. Then the much smaller one, where the network is sure of it: its box
    /// was tight around it, while a large organ's box holds other organs too, and large masks have high logits. Else the logit.
    fn beats(&self, a: &Claim<'_, '_>, b: &Claim<'_, '_>, at: [usize; 3]) -> bool {
        let hu = f32::from(self.hu[[at[2], at[1], at[0]]]);
        let suits = |claim: &Claim<'_, '_>| {
            let [least, most] = self.rules.plausible_hu[claim.track.located.structure.window.index()];
            (least..=most).contains(&hu)
        };
        let tight = |claim: &Claim<'_, '_>, other: &Claim<'_, '_>| {
            claim.voxels * MUCH_SMALLER <= other.voxels && self.iou(claim.track, at[2]) >= self.rules.sure_iou
        };
        let facts = |claim, other| (suits(claim), tight(claim, other), self.logit(claim.track, at));
        facts(a, b) > facts(b, a)
    }

    /// The network's least estimate of its answers around slice k.
    fn iou(&self, track: &Track<'_>, k: usize) -> f32 {
        let planes = self.keys.around(k).into_iter().filter_map(|key| track.planes.get(&key));
        planes.map(|plane| plane.iou).fold(f32::INFINITY, f32::min)
    }

    /// Gives every voxel that several structures claim to the one with the best claim; of equals, to the first.
    fn arbitrate(&self, tracks: &[Track<'_>], blocks: &mut [Block]) {
        let slices = blocks
            .iter()
            .map(|block| block.offset[2] + block.voxels.dim().0)
            .max()
            .unwrap_or(0);
        let [columns, rows] = if self.view.transposed {
            [self.view.size[1], self.view.size[0]]
        } else {
            self.view.size
        };
        let claims: Vec<Claim<'_, '_>> = tracks.iter().zip(blocks.iter()).map(Claim::new).collect();
        let mut owners: Array2<Option<usize>> = Array2::from_elem((rows, columns), None);
        for k in 0..slices {
            owners.fill(None);
            for claimant in 0..blocks.len() {
                for [i, j] in blocks[claimant].claims(k) {
                    let at = [i, j, k];
                    let holder = owners[[j, i]].replace(claimant);
                    let Some(holder) = holder else { continue };
                    if self.beats(&claims[claimant], &claims[holder], at) {
                        blocks[holder].clear(at);
                    } else {
                        blocks[claimant].clear(at);
                        owners[[j, i]] = Some(holder);
                    }
                }
            }
        }
    }
}

impl Block {
    /// Stored pixels [i, j] of slice k.
    fn claims(&self, k: usize) -> Vec<[usize; 2]> {
        let slice = k.checked_sub(self.offset[2]).filter(|k| *k < self.voxels.dim().0);
        let Some(slice) = slice.map(|k| self.voxels.index_axis(Axis(0), k)) else {
            return Vec::new();
        };
        let claimed = slice.indexed_iter().filter(|(_, v)| **v);
        claimed
            .map(|((j, i), _)| [i + self.offset[0], j + self.offset[1]])
            .collect()
    }

    fn clear(&mut self, [i, j, k]: [usize; 3]) {
        self.voxels[[k - self.offset[2], j - self.offset[1], i - self.offset[0]]] = false;
    }
}

/// How far slice k lies from its lower key to its upper one.
fn share([below, above]: [usize; 2], k: usize) -> f32 {
    (k - below) as f32 / (above - below).max(1) as f32
}

fn mix(a: f32, b: f32, share: f32) -> f32 {
    a + (b - a) * share
}

/// Bilinear enlargement of a plane to the columns and rows wanted.
fn enlarge(plane: &Plane, across: &Weights, down: &Weights) -> Array2<f32> {
    Array2::from_shape_fn((down.len(), across.len()), |(v, u)| {
        let ((x0, x1, fx), (y0, y1, fy)) = (across[u], down[v]);
        let upper = mix(plane.at([x0, y0]), plane.at([x1, y0]), fx);
        let lower = mix(plane.at([x0, y1]), plane.at([x1, y1]), fx);
        mix(upper, lower, fy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Grid;
    use crate::localise::Located;
    use crate::segment::link::tests::{disc, grid, located, rules};
    use crate::segment::prepare::tests::recipe;

    fn scene(grid: &Grid) -> Scene<'static> {
        let view = View::of(grid);
        let hu = Box::leak(Box::new(Array3::from_shape_fn(grid.shape(), |(k, j, i)| {
            (k * 10_000 + j * 100 + i) as i16
        })));
        let frame = Frame::new(view.size, &recipe(256, false, false));
        Scene {
            view,
            frame,
            keys: Keys::new(grid, 5.0),
            rules: rules(),
            hu: hu.view(),
        }
    }

    fn track<'a>(scene: &Scene<'_>, grid: &Grid, located: &'a Located, planes: &[(usize, Array2<f32>)]) -> Track<'a> {
        let mut track = Track::new(located, grid, &scene.view, &scene.frame, &scene.keys, &rules()).unwrap();
        for (k, logits) in planes {
            track.planes.insert(
                *k,
                Plane {
                    origin: [0, 0],
                    logits: logits.clone(),
                    iou: 1.0,
                },
            );
        }
        track
    }

    /// The plane position of a stored voxel.
    fn at(scene: &Scene<'_>, i: f64, j: f64) -> [f64; 2] {
        let [u, v] = scene.view.shown([i, j]);
        [scene.frame.to_plane(0, u), scene.frame.to_plane(1, v)]
    }

    #[test]
    fn a_disc_lands_on_the_stored_voxels_it_covers_however_they_are_stored() {
        let minus = |[x, y, z]: [f64; 3]| [-x, -y, -z];
        let plain = grid();
        let [x, y, z] = plain.directions;
        for directions in [
            [x, y, z],
            [minus(x), minus(y), z],
            [y, minus(x), minus(z)],
            [minus(y), x, z],
        ] {
            let grid = Grid {
                directions,
                ..plain.clone()
            };
            let scene = scene(&grid);
            let kidney = located("kidney_left", &grid, [10.0, 10.0, 4.0], [50.0, 50.0, 8.0]);
            let logits = disc(at(&scene, 22.0, 35.0), 20.0);
            let mask = assemble(
                &scene,
                &[track(&scene, &grid, &kidney, &[(4, logits.clone()), (6, logits)])],
            )
            .remove(0)
            .unwrap();
            for (i, j) in (0..64).flat_map(|i| (0..64).map(move |j| (i, j))) {
                let plane = at(&scene, i as f64, j as f64).map(|p| p.round() as usize);
                assert_eq!(scene.hu(2, plane), f32::from((20_000 + j * 100 + i) as i16));
                // Four plane pixels to a voxel.
                let inside = 20.0 - 4.0 * (i as f64 - 22.0).hypot(j as f64 - 35.0);
                if inside.abs() > 0.5 {
                    for k in 4..=6 {
                        assert_eq!(mask.contains([i, j, k]), inside > 0.0, "{directions:?} {i} {j} {k}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_slice_between_two_keys_is_between_their_outlines() {
        let grid = grid();
        let scene = scene(&grid);
        let kidney = located("kidney_left", &grid, [10.0, 10.0, 4.0], [50.0, 50.0, 6.0]);
        let planes = [(4, disc([130.0; 2], 40.0)), (6, disc([130.0; 2], 20.0))];
        let mask = assemble(&scene, &[track(&scene, &grid, &kidney, &planes)])
            .remove(0)
            .unwrap();
        let area = |k: usize| {
            mask.voxels
                .index_axis(Axis(0), k - mask.offset[2])
                .iter()
                .filter(|v| **v)
                .count() as f64
        };
        let radius = |k: usize| 4.0 * (area(k) / std::f64::consts::PI).sqrt();
        assert!((radius(4) - 40.0).abs() < 1.0 && (radius(5) - 30.0).abs() < 1.0 && (radius(6) - 20.0).abs() < 1.0);
        // Beyond the last key that holds it, only the sure core goes half-way: logits over 3.
        assert!((radius(3) - 37.0).abs() < 1.0 && (radius(7) - 17.0).abs() < 1.0);
        assert_eq!(mask.slices().collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_voxel_two_claim_goes_to_the_higher_logit_and_islands_go() {
        let grid = grid();
        let scene = scene(&grid);
        let (low, high) = ([2.0, 2.0, 4.0], [60.0, 60.0, 6.0]);
        let (heart, spleen) = (located("heart", &grid, low, high), located("spleen", &grid, low, high));
        let mut left = disc([90.0, 130.0], 40.0);
        // An island of the first in the middle of the second, with high logits: removed before the voxels are dealt out.
        for y in 120..140 {
            for x in 170..180 {
                left[[y, x]] = 30.0;
            }
        }
        let right = disc([150.0, 130.0], 50.0);
        let planes = |logits: &Array2<f32>| [(4, logits.clone()), (6, logits.clone())];
        let tracks = [
            track(&scene, &grid, &heart, &planes(&left)),
            track(&scene, &grid, &spleen, &planes(&right)),
        ];
        let masks = assemble(&scene, &tracks);
        let (left, right) = (masks[0].as_ref().unwrap(), masks[1].as_ref().unwrap());
        for (i, j) in (0..64).flat_map(|i| (0..64).map(move |j| (i, j))) {
            let [x, y] = at(&scene, i as f64, j as f64);
            let (a, b) = (40.0 - (x - 90.0).hypot(y - 130.0), 50.0 - (x - 150.0).hypot(y - 130.0));
            assert!(!(left.contains([i, j, 5]) && right.contains([i, j, 5])));
            if a.abs() > 0.5 && b.abs() > 0.5 && (a - b).abs() > 0.5 {
                assert_eq!(left.contains([i, j, 5]), a > 0.0 && a > b, "{i} {j}");
                assert_eq!(right.contains([i, j, 5]), b > 0.0 && b > a, "{i} {j}");
            }
        }
    }

    /// Who of two organs has the voxel in the middle of the second's disc, which the first's covers with twice the logits.
    fn holder(names: [&str; 2], iou: f32, hu: i16) -> &'static str {
        let grid = grid();
        let everywhere = Array3::from_elem(grid.shape(), hu);
        let scene = Scene {
            hu: everywhere.view(),
            ..scene(&grid)
        };
        let organs = names.map(|name| located(name, &grid, [2.0, 2.0, 4.0], [60.0, 60.0, 6.0]));
        let planes = |radius: f64, times: f32| [4, 6].map(|k| (k, disc([130.0; 2], radius) * times));
        let mut tracks = [
            track(&scene, &grid, &organs[0], &planes(80.0, 2.0)),
            track(&scene, &grid, &organs[1], &planes(20.0, 0.2)),
        ];
        tracks[1].planes.values_mut().for_each(|plane| plane.iou = iou);
        let masks = assemble(&scene, &tracks);
        let [j, i] =
            [at(&scene, 0.0, 0.0)[1], at(&scene, 0.0, 0.0)[0]].map(|first| ((130.0 - first) / 4.0).round() as usize);
        let holds = |mask: &Option<Mask>| mask.as_ref().is_some_and(|mask| mask.contains([i, j, 5]));
        assert!(masks.iter().filter(|mask| holds(mask)).count() == 1, "{names:?}");
        organs[usize::from(holds(&masks[1]))].structure.name
    }

    #[test]
    fn a_small_organ_the_network_is_sure_of_keeps_what_a_large_one_covers() {
        assert_eq!(holder(["liver", "gallbladder"], 0.9, 30), "gallbladder");
        assert_eq!(holder(["liver", "gallbladder"], 0.5, 30), "liver");
    }

    #[test]
    fn tissue_of_its_own_kind_comes_first() {
        assert_eq!(holder(["lung_left", "spleen"], 0.5, 40), "spleen");
        assert_eq!(holder(["lung_left", "spleen"], 0.9, -850), "lung_left");
    }

    #[test]
    fn nothing_kept_is_no_mask() {
        let grid = grid();
        let scene = scene(&grid);
        let kidney = located("kidney_left", &grid, [10.0, 10.0, 4.0], [50.0, 50.0, 6.0]);
        assert!(assemble(&scene, &[track(&scene, &grid, &kidney, &[])])[0].is_none());
        assert!(assemble(&scene, &[]).is_empty());
    }
}
