//! Contours and frames → voxels on the slices of a CT.

use crate::dicom::uid::Uid;
use crate::geometry::{Grid, Vec3, dot, norm, sub};
use crate::labels::moments::{self, Moments};
use crate::labels::paint::{Window, bounds, copy, resample, window_of};
use crate::labels::plane::Plane;
use crate::labels::raster;
use crate::labels::{Contour, Image, Labels, LabelsError, Piece, Region, Shape};
use crate::mask::Block;
use crate::series::{Series, SliceName};
use ndarray::{Array3, ArrayViewMut2, s};
use std::collections::{BTreeMap, BTreeSet};

/// Positions are stored rounded: this near to a slice, a frame or contour lies on it.
const ON_SLICE_MM: f64 = 0.1;
/// Pixels this near to each other are the same ones.
const SAME_PIXEL_MM: f64 = 0.02;
/// Of the step between slices: frames further apart than this are those of thicker slices.
const THICKER: f64 = 1.25;
const MAX_ANGLE_DEG: f64 = 1.0;

/// Labels held against a CT.
pub struct Placer<'a> {
    labels: &'a Labels,
    grid: &'a Grid,
    frame_of_reference_uid: &'a Uid,
    planes: Vec<Plane>,
    /// Of each slice along the normal of the first, ascending, millimetres.
    heights: Vec<f64>,
    normal: Vec3,
    step_mm: f64,
    /// The slices of each object: one, or those of its frames, with their numbers.
    slices: BTreeMap<&'a Uid, Vec<(Option<u32>, usize)>>,
    /// Every frame of a segmentation lies on a slice, and slices are as far apart as frames.
    slice_by_slice: bool,
}

/// One region's voxels.
#[derive(Clone, Debug)]
pub struct Placed {
    /// `None` when no voxel of this CT belongs to it.
    pub block: Option<Block>,
    /// Everything lay on the slices themselves, and pixels on pixels: nothing was moved or resampled.
    pub exact: bool,
    /// The farthest that a contour or frame lay from its slice.
    pub off_plane_mm: f64,
    /// Slices between the first and the last that show nothing of it.
    pub gaps: usize,
    /// Of contours, what they enclose before it becomes voxels.
    pub moments: Option<Moments>,
    /// What a person should know: what was passed over, left out or moved.
    pub notes: Vec<String>,
}

/// What is to be painted on which slice.
struct Painting<T> {
    on: BTreeMap<usize, Vec<T>>,
    /// Contours or frames on no slice.
    outside: usize,
    off_plane_mm: f64,
}

impl<T> Default for Painting<T> {
    fn default() -> Self {
        Self {
            on: BTreeMap::new(),
            outside: 0,
            off_plane_mm: 0.0,
        }
    }
}

/// A contour on a slice: its height, and its points as pixels (column, row) of the slice.
struct Outline {
    height: f64,
    points: Vec<[f64; 2]>,
}

impl<'a> Placer<'a> {
    pub fn new(labels: &'a Labels, series: &'a Series) -> Result<Self, LabelsError> {
        let mut planes = Vec::with_capacity(series.slices.len());
        for slice in &series.slices {
            let plane = Plane::of_slice(slice)
                .ok_or_else(|| LabelsError::NoPlace(format!("{} does not say where it lies", SliceName::of(slice))))?;
            planes.push(plane);
        }
        let Some(normal) = planes.first().map(Plane::normal) else {
            return Err(LabelsError::NoPlace("the CT has no slices".into()));
        };
        let heights: Vec<f64> = planes
            .iter()
            .map(|plane| dot(sub(plane.position, planes[0].position), normal))
            .collect();
        let step_mm = heights[heights.len() - 1] / (heights.len() - 1).max(1) as f64;
        let mut slices: BTreeMap<&Uid, Vec<(Option<u32>, usize)>> = BTreeMap::new();
        for (k, slice) in series.slices.iter().enumerate() {
            slices
                .entry(&slice.sop_instance_uid)
                .or_default()
                .push((slice.frame_number, k));
        }
        let mut placer = Self {
            labels,
            grid: &series.grid,
            frame_of_reference_uid: &series.frame_of_reference_uid,
            slices,
            planes,
            heights,
            normal,
            step_mm,
            slice_by_slice: false,
        };
        placer.check_frame_of_reference()?;
        let on_slice = |frame: &crate::labels::Frame| {
            let height = placer.height(frame.plane.as_ref()?.position);
            let nearest = placer.nearest(height);
            let beyond = placer.beyond(height) > placer.allowed_mm();
            Some(beyond || (height - placer.heights[nearest]).abs() <= ON_SLICE_MM)
        };
        placer.slice_by_slice = labels.frames.iter().all(|frame| on_slice(frame).unwrap_or(true))
            && labels.frame_step_mm.is_none_or(|mm| mm <= THICKER * placer.step_mm);
        Ok(placer)
    }

    fn check_frame_of_reference(&self) -> Result<(), LabelsError> {
        let named: BTreeSet<&Uid> = self
            .labels
            .frames_of_reference
            .iter()
            .chain(
                self.labels
                    .regions
                    .iter()
                    .filter_map(|region| region.frame_of_reference.as_ref()),
            )
            .collect();
        if named.contains(self.frame_of_reference_uid) {
            return Ok(());
        }
        if !named.is_empty() {
            let theirs: Vec<&str> = named.iter().map(|uid| uid.as_str()).collect();
            return Err(self.other_frame(theirs.join(", ")));
        }
        let refers = |images: &[Image]| images.iter().any(|image| self.slices_of(image).next().is_some());
        let region_refers = |region: &Region| match &region.shape {
            Shape::Contours(contours) => contours.iter().any(|contour| refers(&contour.images)),
            Shape::Pieces(_) => false,
        };
        if self.labels.frames.iter().any(|frame| refers(&frame.images)) || self.labels.regions.iter().any(region_refers)
        {
            return Ok(());
        }
        Err(LabelsError::NoPlace(
            "it names no frame of reference and no slice of this CT; give the CT that it was drawn on".into(),
        ))
    }

    fn other_frame(&self, theirs: String) -> LabelsError {
        LabelsError::OtherFrame {
            theirs,
            ours: self.frame_of_reference_uid.clone(),
        }
    }

    /// The voxels of one region of the labels.
    ///
    /// # Errors
    /// When it lies in another frame of reference or across the slices, does not say where it lies, or contradicts itself.
    pub fn place(&self, region: &Region) -> Result<Placed, LabelsError> {
        if let Some(theirs) = &region.frame_of_reference
            && theirs != self.frame_of_reference_uid
        {
            return Err(self.other_frame(theirs.to_string()));
        }
        let mut placed = match &region.shape {
            Shape::Contours(contours) => self.contours(region, contours)?,
            Shape::Pieces(pieces) => self.pieces(region, pieces)?,
        };
        placed.notes.extend(region.notes.iter().cloned());
        Ok(placed)
    }

    fn height(&self, point: Vec3) -> f64 {
        dot(sub(point, self.planes[0].position), self.normal)
    }

    /// How far above the last or below the first slice; negative between them.
    fn beyond(&self, height: f64) -> f64 {
        (height - self.heights[self.heights.len() - 1]).max(-height)
    }

    /// The slice nearest to a height; of two, the lower.
    fn nearest(&self, height: f64) -> usize {
        let above = self
            .heights
            .partition_point(|own| *own < height)
            .min(self.heights.len() - 1);
        let below = above.saturating_sub(1);
        if height - self.heights[below] <= self.heights[above] - height {
            below
        } else {
            above
        }
    }

    /// The slices that a reference means.
    fn slices_of<'b>(&'b self, image: &'b Image) -> impl Iterator<Item = usize> + 'b {
        let meant =
            |number: Option<u32>| image.frames.is_empty() || number.is_none_or(|number| image.frames.contains(&number));
        let of_object = self.slices.get(&image.sop_instance_uid).into_iter().flatten();
        of_object.filter(move |(number, _)| meant(*number)).map(|(_, k)| *k)
    }

    /// Half a slice, and what rounding adds.
    fn allowed_mm(&self) -> f64 {
        0.5 * self.step_mm + 0.01
    }

    /// The slice of what lies at `height` and refers to `images`; `None` outside of the CT.
    fn slice(&self, what: impl Fn() -> String, images: &[Image], height: f64) -> Result<Option<usize>, LabelsError> {
        let nearest = self.nearest(height);
        let distance_mm = |k: usize| (height - self.heights[k]).abs();
        let slices = |image| self.slices_of(image).map(|k| (&image.sop_instance_uid, k));
        let referenced = images.iter().flat_map(slices);
        let referenced = referenced.min_by(|a, b| distance_mm(a.1).total_cmp(&distance_mm(b.1)));
        match referenced {
            Some((uid, index)) if distance_mm(index) > self.allowed_mm() => Err(LabelsError::Contradiction {
                what: what(),
                referenced: uid.clone(),
                index,
                nearest,
                distance_mm: distance_mm(index),
                allowed_mm: self.allowed_mm(),
            }),
            Some((_, index)) => Ok(Some(index)),
            None => Ok((distance_mm(nearest) <= self.allowed_mm()).then_some(nearest)),
        }
    }

    /// Each contour on its slice, in pixels of it.
    fn outlines(&self, region: &Region, contours: &[Contour]) -> Result<Painting<Outline>, LabelsError> {
        let mut painting = Painting::default();
        for (n, contour) in contours.iter().enumerate() {
            let what = || format!("contour {} of {}", n + 1, region.title());
            let heights = contour.points.iter().map(|point| self.height(*point));
            let (low, high) = heights.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), h| {
                (low.min(h), high.max(h))
            });
            if high - low > self.step_mm {
                let across = contour
                    .points
                    .iter()
                    .map(|p| norm(sub(*p, contour.points[0])))
                    .fold(0.0, f64::max);
                let angle_deg = ((high - low) / across).clamp(0.0, 1.0).asin().to_degrees();
                return Err(LabelsError::Across {
                    what: what(),
                    angle_deg,
                });
            }
            let height = 0.5 * (low + high);
            let Some(k) = self.slice(what, &contour.images, height)? else {
                painting.outside += 1;
                continue;
            };
            let points = contour
                .points
                .iter()
                .map(|point| self.planes[k].pixel(*point))
                .collect();
            painting.on.entry(k).or_default().push(Outline { height, points });
        }
        Ok(painting)
    }

    fn contours(&self, region: &Region, contours: &[Contour]) -> Result<Placed, LabelsError> {
        let mut painting = self.outlines(region, contours)?;
        let dropped = self.keep_nearest(&mut painting);
        let mut notes = Vec::new();
        if dropped > 0 {
            notes.push(format!(
                "{dropped} contours between the slices are left out for nearer ones"
            ));
        }
        let cut = painting
            .on
            .iter()
            .flat_map(|(k, all)| all.iter().map(|o| self.reaches_out(*k, &o.points)));
        if cut.clone().any(|out| out) {
            let count = cut.filter(|out| *out).count();
            notes.push(format!(
                "{count} contours reach out of the CT's matrix and are cut there"
            ));
        }
        let size = |k: &usize| self.planes[*k].size;
        let window = |(k, all): (&usize, &Vec<Outline>)| bounds(all.iter().flat_map(|o| &o.points).copied(), size(k));
        let windows: Vec<Window> = painting.on.iter().filter_map(window).collect();
        let mut enclosed = moments::Sum::default();
        for (k, all) in &painting.on {
            enclosed.add(*k, &all.iter().map(|outline| &outline.points[..]).collect::<Vec<_>>());
        }
        let mut too_intricate = false;
        let exact = painting.off_plane_mm <= ON_SLICE_MM;
        let placed = self.paint(painting, &windows, "contours", |_, all, slice, offset| {
            let polygons: Vec<&[[f64; 2]]> = all.iter().map(|outline| &outline.points[..]).collect();
            too_intricate |= !raster::fill(slice, offset, &polygons);
        });
        if too_intricate {
            let title = region.title();
            return Err(LabelsError::Unsupported(format!(
                "{title} has too many points on one slice to be an outline"
            )));
        }
        Ok(Placed {
            exact,
            moments: enclosed.finish(),
            notes: placed.notes.iter().cloned().chain(notes).collect(),
            ..placed
        })
    }

    /// Where contours are closer together than slices, those of one plane count for a slice: the nearest.
    fn keep_nearest(&self, painting: &mut Painting<Outline>) -> usize {
        let mut dropped = 0;
        for (k, outlines) in &mut painting.on {
            let off = |outline: &Outline| (outline.height - self.heights[*k]).abs();
            let Some(best) = outlines
                .iter()
                .map(|o| (off(o), o.height))
                .min_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal))
            else {
                continue;
            };
            let before = outlines.len();
            outlines.retain(|outline| (outline.height - best.1).abs() <= ON_SLICE_MM);
            dropped += before - outlines.len();
            painting.off_plane_mm = painting.off_plane_mm.max(best.0);
        }
        dropped
    }

    fn reaches_out(&self, k: usize, points: &[[f64; 2]]) -> bool {
        let [columns, rows] = self.planes[k].size.map(|n| n as f64 - 0.5);
        let slack = 0.01;
        points
            .iter()
            .any(|[i, j]| *i < -0.5 - slack || *j < -0.5 - slack || *i > columns + slack || *j > rows + slack)
    }

    fn pieces(&self, region: &Region, pieces: &[Piece]) -> Result<Placed, LabelsError> {
        let mut at: Vec<(f64, &Plane, &Piece)> = Vec::new();
        for piece in pieces {
            let frame = &self.labels.frames[piece.frame];
            let what = || format!("frame {} with {}", piece.frame + 1, region.title());
            let plane = frame
                .plane
                .as_ref()
                .ok_or_else(|| LabelsError::NoPlace(format!("{} lacks position, orientation or spacing", what())))?;
            let angle_deg = dot(plane.normal(), self.normal)
                .abs()
                .clamp(0.0, 1.0)
                .acos()
                .to_degrees();
            if angle_deg > MAX_ANGLE_DEG {
                return Err(LabelsError::Across {
                    what: what(),
                    angle_deg,
                });
            }
            let height = self.height(plane.position);
            if let [only] = &frame.images[..] {
                self.slice(what, std::slice::from_ref(only), height)?;
            }
            at.push((height, plane, piece));
        }
        at.sort_by(|a, b| a.0.total_cmp(&b.0));
        let painting = self.assign(&at);
        let same = |k: &usize, plane: &Plane| self.planes[*k].is_same(plane, SAME_PIXEL_MM);
        let on_pixels = painting
            .on
            .iter()
            .all(|(k, all)| all.iter().all(|(plane, _)| same(k, plane)));
        let mut windows: Vec<Window> = Vec::new();
        for (k, all) in &painting.on {
            for (plane, piece) in all {
                let Some(own) = window_of(&piece.runs) else { continue };
                let edge = |[from, to]: [usize; 2]| [from as f64 - 0.5, to as f64 - 0.5];
                let [[i0, i1], [j0, j1]] = own.map(edge);
                let corners = [[i0, j0], [i1, j0], [i0, j1], [i1, j1]].map(|at| plane.point(at));
                windows.extend(bounds(
                    corners.iter().map(|p| self.planes[*k].pixel(*p)),
                    self.planes[*k].size,
                ));
            }
        }
        let exact = on_pixels && self.slice_by_slice;
        let mut placed = self.paint(painting, &windows, "frames", |k, all, mut slice, offset| {
            for (plane, piece) in all {
                if self.planes[k].is_same(plane, SAME_PIXEL_MM) {
                    copy(&piece.runs, slice.view_mut(), offset);
                } else {
                    resample(&piece.runs, plane, &self.planes[k], slice.view_mut(), offset);
                }
            }
        });
        placed.exact = exact;
        if !exact && placed.block.is_some() {
            placed
                .notes
                .push("it lies on another grid; each voxel of the CT took the value of the nearest".into());
        }
        Ok(placed)
    }

    /// Frames to slices: one to one where they lie upon each other, else to each slice the nearest within half a frame's step.
    fn assign<'b>(&self, at: &[(f64, &'b Plane, &'b Piece)]) -> Painting<(&'b Plane, &'b Piece)> {
        let mut painting = Painting::default();
        for (height, plane, piece) in at {
            if self.beyond(*height) > self.allowed_mm() {
                painting.outside += 1;
            } else if self.slice_by_slice {
                let k = self.nearest(*height);
                painting.off_plane_mm = painting.off_plane_mm.max((height - self.heights[k]).abs());
                painting.on.entry(k).or_default().push((*plane, *piece));
            }
        }
        if self.slice_by_slice {
            return painting;
        }
        let reach_mm = 0.5 * self.labels.frame_step_mm.unwrap_or(self.step_mm) + 0.01;
        for (k, own) in self.heights.iter().enumerate() {
            let off = |height: f64| (height - own).abs();
            let nearest = at.iter().min_by(|a, b| off(a.0).total_cmp(&off(b.0))).map(|a| a.0);
            let Some(nearest) = nearest.filter(|height| off(*height) <= reach_mm) else {
                continue;
            };
            painting.off_plane_mm = painting.off_plane_mm.max(off(nearest));
            let of_plane = at.iter().filter(|(height, ..)| (height - nearest).abs() <= ON_SLICE_MM);
            painting
                .on
                .insert(k, of_plane.map(|(_, plane, piece)| (*plane, *piece)).collect());
        }
        painting
    }

    /// Paints slice by slice into the smallest block that holds all windows.
    fn paint<T>(
        &self,
        painting: Painting<T>,
        windows: &[Window],
        things: &str,
        mut brush: impl FnMut(usize, &[T], ArrayViewMut2<'_, bool>, [usize; 2]),
    ) -> Placed {
        let mut notes = Vec::new();
        if painting.outside > 0 {
            notes.push(format!("{} {things} lie outside of this CT", painting.outside));
        }
        let mut placed = Placed {
            block: None,
            exact: true,
            off_plane_mm: painting.off_plane_mm,
            gaps: 0,
            moments: None,
            notes,
        };
        let (Some(first), Some(last)) = (painting.on.keys().next(), painting.on.keys().next_back()) else {
            return placed;
        };
        let low = |axis: usize| windows.iter().map(|w| w[axis][0]).min();
        let high = |axis: usize| windows.iter().map(|w| w[axis][1]).max().unwrap_or(0);
        let (Some(i), Some(j)) = (low(0), low(1)) else {
            return placed;
        };
        debug_assert!(high(0) <= self.grid.size[0] && high(1) <= self.grid.size[1]);
        let mut voxels = Array3::from_elem((last - first + 1, high(1) - j, high(0) - i), false);
        for (k, things) in &painting.on {
            brush(*k, things, voxels.slice_mut(s![k - first, .., ..]), [i, j]);
        }
        placed.block = Block::crop([i, j, *first], voxels.view());
        if let Some(block) = &placed.block {
            let empty = |slice: &ndarray::ArrayView2<'_, bool>| !slice.iter().any(|v| *v);
            placed.gaps = block.voxels.outer_iter().filter(empty).count();
        }
        placed
    }
}
