//! Located boxes → masks: MedSAM and LiteMedSAM, box-prompted, slice by slice.
//!
//! Slices are gone through twice for each grey window, up and down, and encoded when the first structure needs them; the
//! embeddings wait in memory for the way back. All boxes of a slice go to the decoder together. Then logits are interpolated
//! to the stored grid, cleaned and arbitrated.

mod assemble;
mod link;
mod plane;
mod prepare;
mod rules;

use crate::inference::model::Manifest;
use crate::inference::onnx;
use crate::inference::pth::{self, Checkpoint};
use crate::inference::runtime::{Feed, InferenceError, Runtime, Session};
use crate::localise::Located;
use crate::mask::Mask;
use crate::progress::Progress;
use crate::segment::assemble::Scene;
use crate::segment::link::{Sweep, Track};
use crate::segment::plane::Rect;
use crate::segment::prepare::{Frame, PLANE, Recipe, View};
use crate::segment::rules::{Keys, Rules};
use crate::structure::{Structure, Window};
use crate::volume::Volume;
use ndarray::{Array1, Array2, ArrayD, ArrayView2, Axis, Ix4, s};
use std::collections::{BTreeMap, BTreeSet};

/// The box-prompted segmentation network, resident: image encoder and mask decoder.
pub struct Segmenter {
    pub manifest: Manifest,
    pub encoder: Session,
    pub decoder: Session,
    recipe: Recipe,
    rules: Rules,
    limits: Limits,
}

/// What one run may take; from the model's manifest.
struct Limits {
    /// Boxes per decoder call: its memory grows with them.
    boxes_per_call: usize,
    /// Embeddings kept (2 MB each); beyond them the least recently used is encoded again when needed.
    embeddings: usize,
    /// Smaller masks are noise.
    min_volume_ml: f64,
}

/// A mask with what the segmenter thinks of it.
#[derive(Clone, Debug)]
pub struct Outlined {
    pub mask: Mask,
    /// Mean of the decoder's own IoU estimate over the slices used.
    pub predicted_iou: f32,
    /// Why a human should not trust the outline unseen.
    pub doubt: Option<String>,
}

/// What became of one located structure.
pub enum Outline {
    Outlined(Outlined),
    /// The network outlined nothing there.
    Empty {
        structure: &'static Structure,
        reason: String,
    },
}

impl Segmenter {
    /// Reads and verifies the weights and makes both sessions.
    pub fn load(runtime: &Runtime, manifest: Manifest) -> Result<Self, InferenceError> {
        let recipe = Recipe::read(&manifest)?;
        let rules = Rules::read(&manifest)?;
        let count = |key: &str| manifest.number(key).map(|n| (n as usize).max(1));
        let limits = Limits {
            boxes_per_call: count("boxes_per_call")?,
            embeddings: count("embeddings_kept")?,
            min_volume_ml: manifest.number("min_volume_ml")?,
        };
        let file = manifest.load_verified()?;
        let checkpoint = Checkpoint::read(&file)
            .map_err(|e| manifest.refuse(format!("{} is not a checkpoint we read: {e}", manifest.file.display())))?;
        let session = |part: &str| {
            let graph = manifest.companion(part)?;
            let wanted = onnx::external_initialisers(&graph)
                .ok_or_else(|| manifest.refuse(format!("{part} graph is damaged")))?;
            let weights = manifest.weights(&checkpoint, &wanted.into_iter().collect::<Vec<_>>())?;
            runtime.session(&format!("{} {part}", manifest.name), &graph, weights)
        };
        let (encoder, decoder) = (session("encoder")?, session("decoder")?);
        Ok(Self {
            manifest,
            encoder,
            decoder,
            recipe,
            rules,
            limits,
        })
    }

    /// Outlines every located structure on the stored grid, in the order of `located`. Each slice is encoded once per window for
    /// all structures; boxes of a slice share one decoder call; where structures overlap the higher logit keeps the voxel.
    pub fn segment(
        &mut self,
        volume: &Volume,
        located: &[Located],
        progress: &dyn Progress,
    ) -> Result<Vec<Outline>, InferenceError> {
        let mut sets = self.segment_sets(volume, &[located], progress)?;
        Ok(sets.pop().unwrap_or_default())
    }

    /// The same for several sets of boxes, each as if it were alone, with the slices encoded once for all of them.
    pub fn segment_sets(
        &mut self,
        volume: &Volume,
        sets: &[&[Located]],
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<Outline>>, InferenceError> {
        let view = View::of(&volume.grid);
        let frame = Frame::new(view.size, &self.recipe);
        let scene = Scene {
            view,
            frame,
            keys: Keys::new(&volume.grid, self.rules.encode_step_mm),
            rules: self.rules.clone(),
            hu: volume.hu.view(),
        };
        let track = |located| Track::new(located, &volume.grid, &view, &frame, &scene.keys, &self.rules);
        let mut tracks: Vec<Vec<Option<Track<'_>>>> =
            sets.iter().map(|located| located.iter().map(track).collect()).collect();
        self.follow(&scene, tracks.iter_mut().flatten().flatten().collect(), progress)?;
        let sets = sets.iter().zip(tracks);
        Ok(sets
            .map(|(located, tracks)| self.outlines(&scene, volume, located, tracks))
            .collect())
    }

    /// Masks of the structures that were followed, in the order of `located`.
    fn outlines(
        &self,
        scene: &Scene<'_>,
        volume: &Volume,
        located: &[Located],
        tracks: Vec<Option<Track<'_>>>,
    ) -> Vec<Outline> {
        let mut made: BTreeMap<usize, Outlined> = BTreeMap::new();
        let (places, tracks): (Vec<_>, Vec<_>) = tracks
            .into_iter()
            .enumerate()
            .filter_map(|(place, track)| Some((place, track?)))
            .unzip();
        for ((place, track), mask) in places.iter().zip(&tracks).zip(assemble::assemble(scene, &tracks)) {
            if let Some(mask) = mask
                .filter(|mask| mask.voxel_count() as f64 * volume.grid.voxel_volume_ml() >= self.limits.min_volume_ml)
            {
                made.insert(
                    *place,
                    Outlined {
                        mask,
                        predicted_iou: track.predicted_iou(),
                        doubt: track.doubt(&self.rules),
                    },
                );
            }
        }
        let outline = |(place, located): (usize, &Located)| match made.remove(&place) {
            Some(outlined) => Outline::Outlined(outlined),
            None => Outline::Empty {
                structure: located.structure,
                reason: if places.contains(&place) {
                    format!(
                        "the network outlines nothing plausible in the located box (at least {} ml)",
                        self.limits.min_volume_ml
                    )
                } else {
                    "the located box does not touch the volume".into()
                },
            },
        };
        located.iter().enumerate().map(outline).collect()
    }

    /// Runs all tracks, window by window.
    fn follow(
        &mut self,
        scene: &Scene<'_>,
        tracks: Vec<&mut Track<'_>>,
        progress: &dyn Progress,
    ) -> Result<(), InferenceError> {
        let mut windows: BTreeMap<Window, Vec<&mut Track<'_>>> = BTreeMap::new();
        for track in tracks {
            windows.entry(track.located.structure.window).or_default().push(track);
        }
        let keys = |tracks: &[&mut Track<'_>]| {
            tracks
                .iter()
                .flat_map(|t| t.keys().iter().copied())
                .collect::<BTreeSet<_>>()
        };
        let total = windows.values().map(|tracks| keys(tracks).len()).sum();
        progress.stage("segment", total);
        let mut done = 0;
        for (window, mut tracks) in windows {
            let slices: Vec<usize> = keys(&tracks).into_iter().collect();
            let mut embeddings = Embeddings::new(self.limits.embeddings);
            for sweep in [Sweep::Up, Sweep::Down] {
                let order: Box<dyn Iterator<Item = &usize>> = if sweep == Sweep::Up {
                    Box::new(slices.iter())
                } else {
                    Box::new(slices.iter().rev())
                };
                for k in order.copied() {
                    if progress.cancelled() {
                        return Err(InferenceError::Cancelled);
                    }
                    let prompts: Vec<Vec<Rect>> = tracks.iter().map(|t| t.prompts(k, sweep, &self.rules)).collect();
                    if prompts.iter().any(|p| !p.is_empty()) {
                        let embedding = self.embedding(scene, window, k, &mut embeddings)?;
                        self.answer(scene, k, sweep, embedding, &mut tracks, &prompts)?;
                    }
                    progress.step(done + embeddings.seen.len());
                }
            }
            done += slices.len();
            progress.step(done);
        }
        Ok(())
    }

    /// The embedding of slice k, from memory or from the encoder.
    fn embedding(
        &mut self,
        scene: &Scene<'_>,
        window: Window,
        k: usize,
        embeddings: &mut Embeddings,
    ) -> Result<ArrayD<f32>, InferenceError> {
        if let Some(embedding) = embeddings.get(k) {
            return Ok(embedding);
        }
        let slice = scene.hu.index_axis(Axis(0), k);
        let image = prepare::image(&self.recipe, &scene.view, &scene.frame, window, slice).into_dyn();
        let mut output = self
            .encoder
            .run(&[("image", Feed::F32(image.view()))], &["embedding"])?;
        let embedding = output.remove(0);
        embeddings.put(k, &embedding);
        Ok(embedding)
    }

    /// Asks the decoder about all boxes of slice k and hands each track its answers.
    fn answer(
        &mut self,
        scene: &Scene<'_>,
        k: usize,
        sweep: Sweep,
        embedding: ArrayD<f32>,
        tracks: &mut [&mut Track<'_>],
        prompts: &[Vec<Rect>],
    ) -> Result<(), InferenceError> {
        let boxes: Vec<Rect> = prompts.iter().flatten().copied().collect();
        let mut answers: Vec<(Array2<f32>, f32)> = Vec::with_capacity(boxes.len());
        for call in boxes.chunks(self.limits.boxes_per_call) {
            answers.extend(self.decode(scene, &embedding, call)?);
        }
        let mut rest = answers.as_slice();
        for (track, prompts) in tracks.iter_mut().zip(prompts) {
            let (own, others) = rest.split_at(prompts.len());
            rest = others;
            let own: Vec<(ArrayView2<'_, f32>, f32)> = own.iter().map(|(logits, iou)| (logits.view(), *iou)).collect();
            track.accept(k, sweep, &own, &self.rules, &|at| scene.hu(k, at));
        }
        Ok(())
    }

    fn decode(
        &mut self,
        scene: &Scene<'_>,
        embedding: &ArrayD<f32>,
        boxes: &[Rect],
    ) -> Result<Vec<(Array2<f32>, f32)>, InferenceError> {
        let corner =
            |rect: &Rect| [rect.min[0], rect.min[1], rect.max[0], rect.max[1]].map(|v| scene.frame.to_image(v) as f32);
        let flat = boxes.iter().flat_map(corner).collect::<Array1<f32>>();
        let boxes_fed = flat
            .to_shape((boxes.len(), 4))
            .map_err(|e| self.unexpected(&e.to_string()))?
            .into_owned()
            .into_dyn();
        let index = Array1::<i64>::zeros(boxes.len()).into_dyn();
        let inputs = [
            ("embedding", Feed::F32(embedding.view())),
            ("boxes", Feed::F32(boxes_fed.view())),
            ("index", Feed::I64(index.view())),
        ];
        let outputs = self.decoder.run(&inputs, &["logits", "iou"])?;
        let [logits, iou] = outputs.as_slice() else {
            return Err(self.unexpected("not two outputs"));
        };
        if logits.shape() != [boxes.len(), 1, PLANE, PLANE] || iou.len() != boxes.len() {
            return Err(self.unexpected(&format!("logits {:?} and iou {:?}", logits.shape(), iou.shape())));
        }
        let logits = logits
            .view()
            .into_dimensionality::<Ix4>()
            .map_err(|e| self.unexpected(&e.to_string()))?;
        let finite = |v: &f32| v.is_finite();
        if !(logits.iter().all(finite) && iou.iter().all(finite)) {
            return Err(self.unexpected("numbers that are not finite"));
        }
        let plane = |(n, iou): (usize, &f32)| (logits.slice(s![n, 0, .., ..]).to_owned(), *iou);
        Ok(iou.iter().enumerate().map(plane).collect())
    }

    fn unexpected(&self, what: &str) -> InferenceError {
        InferenceError::Run {
            model: self.decoder.assignment.model.clone(),
            cause: format!("the decoder gives {what}"),
        }
    }
}

/// Embeddings of one window, kept as f16 (2 MB a slice instead of 4).
struct Embeddings {
    capacity: usize,
    /// Slices encoded so far, for the progress bar.
    seen: BTreeSet<usize>,
    kept: BTreeMap<usize, (Vec<usize>, Vec<u16>)>,
    /// Least recently used first.
    order: Vec<usize>,
}

impl Embeddings {
    fn new(capacity: usize) -> Self {
        Self {
            capacity,
            seen: BTreeSet::new(),
            kept: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    fn get(&mut self, k: usize) -> Option<ArrayD<f32>> {
        let (shape, halves) = self.kept.get(&k)?;
        let values = halves.iter().map(|h| pth::half_to_f32(*h)).collect();
        let embedding = ArrayD::from_shape_vec(shape.clone(), values).ok()?;
        self.order.retain(|used| *used != k);
        self.order.push(k);
        Some(embedding)
    }

    fn put(&mut self, k: usize, embedding: &ArrayD<f32>) {
        if self.kept.len() >= self.capacity {
            let oldest = self.order.remove(0);
            self.kept.remove(&oldest);
        }
        self.seen.insert(k);
        self.kept.insert(
            k,
            (
                embedding.shape().to_vec(),
                embedding.iter().map(|v| pth::f32_to_half(*v)).collect(),
            ),
        );
        self.order.push(k);
    }
}
