//! Looking for every face of every structure: expected place, first look, alignment, second look.

use crate::geometry::{Box3, Vec3, sub};
use crate::localise::Face;
use crate::localise::align::{Alignment, Pair};
use crate::localise::bank::{Bank, Cubes, Landmark, Pattern};
use crate::localise::canonical::Observation;
use crate::localise::coarse::{self, Target};
use crate::localise::fine::Similarity;
use crate::progress::Progress;
use crate::structure::Structure;

/// How far a face may be from where it is expected, first before and then after the alignment, millimetres.
const FIRST_REACH_MM: f64 = 36.0;
const SECOND_REACH_MM: f64 = 36.0;
/// A place this far off costs as much similarity as [`PRIOR_COST`].
const FIRST_SIGMA_MM: f64 = 24.0;
const SECOND_SIGMA_MM: f64 = 12.0;
const PRIOR_COST: f32 = 0.02;
/// Share of a point's own body coordinate in its expected place; the rest is its template's shape.
const OWN_SHARE: f64 = 0.3;
/// A found place this far from the aligned expectation is a false match.
const OUTLIER_MM: f64 = 32.0;

/// A face of a structure in the volume at hand.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// Where body coordinate and alignment put it; may lie outside the volume.
    pub expected: Vec3,
    /// See [`Target::residual_mm`].
    pub residual_mm: f64,
    /// Median absolute deviation of the templates' own expectations along the face's axis.
    pub spread_mm: f64,
    pub found: Option<Hit>,
    /// No template shows where the structure ends on this side: `expected` is where the last template's view ended.
    pub open: bool,
}

/// A match inside the volume.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    pub at: Vec3,
    /// Mean cosine over scales and templates.
    pub similarity: f32,
    /// Median absolute deviation of the templates' own peaks along the face's axis.
    pub spread_mm: f64,
}

impl Sighting {
    /// The best known coordinate along the axis of its face.
    pub fn coordinate(&self, face: Face) -> f64 {
        self.found.map_or(self.expected, |hit| hit.at)[face.axis()]
    }
}

/// A structure's faces, in the order of [`Face::ALL`]; `None` where no template knows one.
pub struct Search<'a> {
    pub structure: &'static Structure,
    pub patterns: Vec<(&'a str, &'a Pattern)>,
    pub faces: [Option<Sighting>; 6],
}

/// How far a search goes. Less than all only measures what a step is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Steps {
    /// Expected places alone.
    Coarse,
    /// And what resembles the templates near them.
    Fine,
    /// And the alignment of all points, with a second look.
    All,
}

/// Looks for every structure of the bank, so that what is found of one does not depend on which others are wanted.
/// `None` when cancelled.
pub fn search<'a>(
    observation: &Observation,
    bank: &'a Bank,
    steps: Steps,
    progress: &dyn Progress,
) -> Option<(Vec<Search<'a>>, Alignment)> {
    let structures = bank.structures();
    progress.stage("localise", 2 * structures.len());
    let mut searches = Vec::with_capacity(structures.len());
    for (n, structure) in structures.iter().enumerate() {
        if progress.cancelled() {
            return None;
        }
        searches.push(first_look(observation, bank, structure, steps));
        progress.step(n + 1);
    }
    if steps < Steps::All {
        return Some((searches, Alignment::default()));
    }
    let alignment = Alignment::fit(&pairs(&searches));
    for (n, search) in searches.iter_mut().enumerate() {
        if progress.cancelled() {
            return None;
        }
        second_look(observation, search, &alignment);
        progress.step(structures.len() + n + 1);
    }
    Some((searches, alignment))
}

fn first_look<'a>(
    observation: &Observation,
    bank: &'a Bank,
    structure: &'static Structure,
    steps: Steps,
) -> Search<'a> {
    let patterns = bank.patterns(structure.name);
    let targets: Vec<Targets> = patterns.iter().map(|(_, p)| targets(observation, p)).collect();
    let faces = Face::ALL.map(|face| {
        let mut sighting = expectation(&patterns, &targets, face)?;
        let near = in_view(&observation.bounds, sighting.expected, FIRST_REACH_MM);
        if steps >= Steps::Fine && !sighting.open && near {
            let cubes = cubes(&patterns, face);
            sighting.found = look(
                observation,
                &cubes,
                face,
                sighting.expected,
                FIRST_REACH_MM,
                FIRST_SIGMA_MM,
            );
        }
        Some(sighting)
    });
    Search {
        structure,
        patterns,
        faces,
    }
}

type Targets = [Option<Target>; 6];

/// Where one template's points should be: each by its own body coordinate, and by the template's shape carried to where most of
/// its points agree it lies. The mean of both keeps single stray points and single odd shapes from going far.
fn targets(observation: &Observation, pattern: &Pattern) -> Targets {
    let mut targets = pattern
        .landmarks
        .each_ref()
        .map(|l| coarse::target(&observation.seen, observation.range_mm, l.as_ref()?.body));
    let moved: Vec<Vec3> = (targets.iter().zip(&pattern.landmarks))
        .filter_map(|(target, l)| Some(sub(target.as_ref()?.at, l.as_ref()?.at)))
        .collect();
    let shift = [0, 1, 2].map(|a| median(moved.iter().map(|m| m[a])));
    for (target, landmark) in targets.iter_mut().zip(&pattern.landmarks) {
        if let (Some(target), Some(landmark)) = (target, landmark) {
            target.at = [0, 1, 2].map(|a| OWN_SHARE * target.at[a] + (1.0 - OWN_SHARE) * (landmark.at[a] + shift[a]));
        }
    }
    targets
}

/// Median of what the templates that show this face expect; where every template was cut, the farthest cut.
fn expectation(patterns: &[(&str, &Pattern)], targets: &[Targets], face: Face) -> Option<Sighting> {
    let axis = face.axis();
    let those = |real: bool| -> Vec<Target> {
        let wanted = |l: &Landmark| l.cubes.is_some() == real;
        let both = patterns.iter().zip(targets);
        both.filter(|((_, p), _)| p.landmark(face).is_some_and(wanted))
            .filter_map(|(_, t)| t[face as usize])
            .collect()
    };
    let real = those(true);
    if real.is_empty() {
        let outward = |t: &Target| if face.is_max() { t.at[axis] } else { -t.at[axis] };
        let far = those(false)
            .into_iter()
            .max_by(|a, b| outward(a).total_cmp(&outward(b)))?;
        return Some(Sighting {
            expected: far.at,
            residual_mm: far.residual_mm,
            spread_mm: 0.0,
            found: None,
            open: true,
        });
    }
    let expected = [0, 1, 2].map(|a| median(real.iter().map(|t| t.at[a])));
    Some(Sighting {
        expected,
        residual_mm: median(real.iter().map(|t| t.residual_mm)),
        spread_mm: deviation(real.iter().map(|t| t.at[axis])),
        found: None,
        open: false,
    })
}

fn cubes<'a>(patterns: &[(&str, &'a Pattern)], face: Face) -> Vec<&'a Cubes> {
    patterns
        .iter()
        .filter_map(|(_, p)| p.landmark(face)?.cubes.as_ref())
        .collect()
}

/// The place near `centre` most similar to the templates, all of them together.
fn look(
    observation: &Observation,
    templates: &[&Cubes],
    face: Face,
    centre: Vec3,
    reach_mm: f64,
    sigma_mm: f64,
) -> Option<Hit> {
    let cost = |place: Vec3| {
        let d2: f64 = (0..3).map(|a| (place[a] - centre[a]).powi(2)).sum();
        PRIOR_COST * (d2 / (sigma_mm * sigma_mm)) as f32
    };
    let mut sum: Option<Similarity> = None;
    let mut own = Vec::new();
    for cubes in templates {
        let mut map = observation.fine.correlate(&cubes.fine, centre, reach_mm)?;
        let wide = observation
            .coarse
            .correlate(&cubes.coarse, centre, reach_mm + observation.coarse.step_mm());
        if let Some(wide) = wide {
            map.mean_with(&wide);
        }
        own.push(map.peak(cost).0[face.axis()]);
        match &mut sum {
            None => sum = Some(map),
            Some(sum) => sum.values += &map.values,
        }
    }
    let mut sum = sum?;
    sum.values /= templates.len() as f32;
    let (at, similarity) = sum.peak(cost);
    Some(Hit {
        at,
        similarity,
        spread_mm: deviation(own.into_iter()),
    })
}

fn pairs(searches: &[Search<'_>]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for search in searches {
        for face in Face::ALL {
            let Some(sighting) = &search.faces[face as usize] else {
                continue;
            };
            let Some(hit) = sighting.found else { continue };
            // agreement of templates counts double: it is what a false match lacks
            let agreement = 1.0 / (1.0 + (hit.spread_mm / 6.0).powi(2));
            let weight = f64::from(hit.similarity.clamp(0.0, 1.0)) * agreement;
            pairs.push(Pair {
                face,
                expected: sighting.expected,
                found: hit.at,
                weight,
            });
        }
    }
    pairs
}

fn second_look(observation: &Observation, search: &mut Search<'_>, alignment: &Alignment) {
    for face in Face::ALL {
        let Some(sighting) = &mut search.faces[face as usize] else {
            continue;
        };
        sighting.expected = alignment.apply(sighting.expected);
        sighting.found = None;
        if sighting.open || !in_view(&observation.bounds, sighting.expected, 0.0) {
            continue;
        }
        let cubes = cubes(&search.patterns, face);
        let hit = look(
            observation,
            &cubes,
            face,
            sighting.expected,
            SECOND_REACH_MM,
            SECOND_SIGMA_MM,
        );
        let axis = face.axis();
        sighting.found = hit.filter(|hit| (hit.at[axis] - sighting.expected[axis]).abs() < OUTLIER_MM);
    }
}

pub fn in_view(bounds: &Box3, at: Vec3, margin_mm: f64) -> bool {
    let (low, high) = (bounds.min.to_array(), bounds.max.to_array());
    (0..3).all(|a| (low[a] - margin_mm..=high[a] + margin_mm).contains(&at[a]))
}

/// The middle value; the mean of the middle two of an even number. 0 of nothing.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => 0.5 * (values[n / 2 - 1] + values[n / 2]),
    }
}

/// Median absolute deviation.
fn deviation(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    let middle = median(values.iter().copied());
    median(values.iter().map(|v| (v - middle).abs()))
}
