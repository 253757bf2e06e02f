//! Teaching a structure: points placed on a volume, by hand or from a contoured case → a template of the bank.

use crate::dicom::uid::Uid;
use crate::geometry::{Box3, Grid, Vec3};
use crate::inference::runtime::InferenceError;
use crate::labels::names;
use crate::localise::bank::{Bank, Cubes, Landmark, Part, Pattern, Template};
use crate::localise::canonical::Observation;
use crate::localise::{self, Face, Finding, Localiser, Located, Section, coarse};
use crate::mask::Mask;
use crate::nifti::NiftiError;
use crate::progress::Silent;
use crate::structure;
use crate::volume::Volume;
use ndarray::Array3;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Thickness of the parts derived from masks, millimetres.
const SECTION_MM: f64 = 15.0;
/// A structure this far from where the bank expects it most likely bears the wrong name: kidneys, lungs and the like lie further
/// apart, and the localiser errs by less.
pub const FAR_MM: f64 = 40.0;
/// Fewer voxels than this are a speck, not a structure.
const MIN_VOXELS: usize = 20;
/// Larger label files are no points file.
const MAX_JSON_BYTES: u64 = 1 << 24;

/// Why something cannot be taught.
#[derive(Debug, thiserror::Error)]
pub enum TeachError {
    /// The points or labels do not fit; the text says which and why.
    #[error("{0}")]
    Input(String),
    #[error(transparent)]
    Labels(#[from] NiftiError),
    #[error(transparent)]
    Inference(#[from] InferenceError),
    #[error("template bank {path}: {cause}")]
    Write { path: String, cause: std::io::Error },
}

/// Points placed on one volume. As JSON: `models/medlam/templates/*.json`; coordinates are patient LPS millimetres.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Placed {
    /// Id of the template.
    pub volume: String,
    /// Volumes of one patient bear one name, so that they are left out together when the bank is measured; else the id.
    #[serde(default)]
    pub patient: Option<String>,
    #[serde(default)]
    pub source: String,
    pub licence: String,
    pub made_by: String,
    pub structures: BTreeMap<String, PlacedStructure>,
    /// Which structures the volume shows, also those without points; what could not be judged is not there.
    #[serde(default)]
    pub presence: BTreeMap<String, Presence>,
}

/// Whether a volume shows a structure. As JSON: `true`, `"cut"` or `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "serde_json::Value")]
pub enum Presence {
    Whole,
    /// The field of view cuts it.
    Cut,
    Absent,
}

impl TryFrom<serde_json::Value> for Presence {
    type Error = String;

    fn try_from(value: serde_json::Value) -> Result<Self, String> {
        match value {
            serde_json::Value::Bool(true) => Ok(Self::Whole),
            serde_json::Value::Bool(false) => Ok(Self::Absent),
            serde_json::Value::String(word) if word == "cut" => Ok(Self::Cut),
            other => Err(format!("presence is true, \"cut\" or false, not {other}")),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct PlacedStructure {
    /// Faces at which the field of view cuts the structure.
    #[serde(default)]
    pub cut: Vec<Face>,
    /// Points on the structure where it reaches farthest.
    pub extremes: BTreeMap<Face, Vec3>,
    #[serde(default)]
    pub sections: Vec<PlacedSection>,
}

impl PlacedStructure {
    /// Whole, or cut at some face.
    pub fn presence(&self) -> Presence {
        if self.cut.is_empty() {
            Presence::Whole
        } else {
            Presence::Cut
        }
    }

    /// The box of what is in view: faces that the field of view cuts are where the view ends. `None` without points.
    pub fn bounds(&self) -> Option<Box3> {
        let side = |face: Face| {
            let real = self.extremes.get(&face).filter(|_| !self.cut.contains(&face)).copied();
            Some(real.or_else(|| cut_point(self, face))?[face.axis()])
        };
        let [x0, x1, y0, y1, z0, z1] = Face::ALL.map(side);
        let bounds = Box3 {
            min: [x0?, y0?, z0?].into(),
            max: [x1?, y1?, z1?].into(),
        };
        bounds.is_proper().then_some(bounds)
    }
}

/// A part along z, and the points where it reaches farthest in x and y.
#[derive(Clone, Debug, Deserialize)]
pub struct PlacedSection {
    pub z_mm: [f64; 2],
    pub x_min: Vec3,
    pub x_max: Vec3,
    pub y_min: Vec3,
    pub y_max: Vec3,
}

impl PlacedSection {
    pub fn bounds(&self) -> Section {
        Section {
            z_mm: self.z_mm,
            y_mm: [self.y_min[1], self.y_max[1]],
            x_mm: [self.x_min[0], self.x_max[0]],
        }
    }
}

/// Reads a points file.
pub fn read_points(path: &Path) -> Result<Placed, TeachError> {
    let input = |problem: String| TeachError::Input(format!("{}: {problem}", path.display()));
    let length = std::fs::metadata(path).map_err(|e| input(e.to_string()))?.len();
    if length > MAX_JSON_BYTES {
        return Err(input(format!("{length} bytes are too many for a points file")));
    }
    let text = std::fs::read(path).map_err(|e| input(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| input(format!("not a points file: {e}")))
}

/// A template from an observed volume and the points placed on it.
///
/// # Errors
/// When a structure is unknown, a point is not finite, or lies where the volume shows no patient.
pub fn template(observation: &Observation, placed: &Placed) -> Result<Template, TeachError> {
    let mut patterns = BTreeMap::new();
    for (name, structure) in &placed.structures {
        if !structure::sought().any(|s| s.name == name) {
            return Err(TeachError::Input(format!(
                "{}: no structure is called `{name}`",
                placed.volume
            )));
        }
        let pattern = pattern(observation, structure)
            .map_err(|problem| TeachError::Input(format!("{}, {name}: {problem}", placed.volume)))?;
        patterns.insert(name.clone(), pattern);
    }
    let Placed {
        volume: _,
        patient: _,
        source,
        licence,
        made_by,
        structures: _,
        presence: _,
    } = placed.clone();
    Ok(Template {
        source,
        licence,
        made_by,
        patterns,
    })
}

fn pattern(observation: &Observation, placed: &PlacedStructure) -> Result<Pattern, String> {
    let mut pattern = Pattern::default();
    for section in &placed.sections {
        pattern.parts.push(part(observation, section.bounds())?);
    }
    pattern
        .parts
        .sort_by(|a, b| a.bounds.z_mm[0].total_cmp(&b.bounds.z_mm[0]));
    for face in Face::ALL {
        let real = placed.extremes.get(&face).filter(|_| !placed.cut.contains(&face));
        let Some(at) = real.copied().or_else(|| cut_point(placed, face)) else {
            continue;
        };
        if !at.iter().all(|v| v.is_finite()) {
            return Err(format!("{face:?} is not a finite point"));
        }
        let body = coarse::body_coordinate(&observation.seen, at).ok_or(format!(
            "{face:?} at {at:.0?} mm lies where the volume shows no patient"
        ))?;
        let cubes = real.map(|at| cubes(observation, *at));
        pattern.landmarks[face as usize] = Some(Landmark { at, body, cubes });
    }
    for axis in 0..3 {
        let [low, high] = Face::of_axis(axis).map(|f| pattern.landmark(f).map(|l| l.at[axis]));
        if let (Some(low), Some(high)) = (low, high)
            && low >= high
        {
            return Err(format!(
                "its extremes along {} are crossed: {low:.1} and {high:.1} mm",
                ["x", "y", "z"][axis]
            ));
        }
    }
    Ok(pattern)
}

fn cubes(observation: &Observation, at: Vec3) -> Cubes {
    Cubes {
        fine: observation.fine.cube(at),
        coarse: observation.coarse.cube(at),
    }
}

fn part(observation: &Observation, bounds: Section) -> Result<Part, String> {
    let middle = bounds.middle();
    if !middle.iter().all(|v| v.is_finite()) {
        return Err("a part is not finite".into());
    }
    let body = coarse::body_coordinate(&observation.seen, middle).ok_or(format!(
        "a part about {middle:.0?} mm lies where the volume shows no patient"
    ))?;
    let cubes = cubes(observation, middle);
    Ok(Part { bounds, body, cubes })
}

/// Where the field of view cut a structure: as far as its other points and parts reach on that side.
fn cut_point(placed: &PlacedStructure, face: Face) -> Option<Vec3> {
    let axis = face.axis();
    let mut points: Vec<Vec3> = placed.extremes.values().copied().collect();
    for s in &placed.sections {
        let middle = [0.5 * (s.x_min[0] + s.x_max[0]), 0.5 * (s.y_min[1] + s.y_max[1])];
        points.extend([s.x_min, s.x_max, s.y_min, s.y_max]);
        points.extend(s.z_mm.map(|z| [middle[0], middle[1], z]));
    }
    let outward = |p: &&Vec3| if face.is_max() { p[axis] } else { -p[axis] };
    points.iter().max_by(|a, b| outward(a).total_cmp(&outward(b))).copied()
}

/// Points from label volumes: `names` says which label is which structure; several labels may make one (lobes → lung).
pub fn points_of_labels(
    grid: &Grid,
    labels: &Array3<u16>,
    names: &BTreeMap<u16, String>,
) -> BTreeMap<String, PlacedStructure> {
    let mut members: BTreeMap<&str, Vec<[usize; 3]>> = BTreeMap::new();
    // Names are compared once, not for every voxel.
    let known = |(label, name): (&u16, &String)| Some((*label, structure_of_label(name)?));
    let known: BTreeMap<u16, &str> = names.iter().filter_map(known).collect();
    for ((k, j, i), label) in labels.indexed_iter() {
        if *label != 0
            && let Some(name) = known.get(label)
        {
            members.entry(name).or_default().push([i, j, k]);
        }
    }
    let enough = members.into_iter().filter(|(_, voxels)| voxels.len() >= MIN_VOXELS);
    enough
        .map(|(name, voxels)| (name.to_owned(), points_of_voxels(grid, &voxels)))
        .collect()
}

/// Extreme points, cut faces and parts of a structure given as voxels `(i, j, k)`.
fn points_of_voxels(grid: &Grid, voxels: &[[usize; 3]]) -> PlacedStructure {
    let at = |v: &[usize; 3]| grid.to_patient(v.map(|n| n as f64)).to_array();
    let points: Vec<Vec3> = voxels.iter().map(at).collect();
    // half a voxel's extent along each patient axis: faces are where the structure ends, not its outermost centres
    let half = [0, 1, 2].map(|a| {
        (0..3)
            .map(|d| (grid.directions[d][a] * grid.spacing_mm[d]).abs())
            .sum::<f64>()
            / 2.0
    });
    let mut placed = PlacedStructure::default();
    let bounds = grid.bounds();
    for face in Face::ALL {
        let point = extreme(&points, face, half[face.axis()]);
        let (edge, axis) = (
            if face.is_max() { bounds.max } else { bounds.min }.to_array(),
            face.axis(),
        );
        if (edge[axis] - point[axis]).abs() < half[axis] {
            placed.cut.push(face);
        }
        placed.extremes.insert(face, point);
    }
    placed.extremes.retain(|face, _| !placed.cut.contains(face));
    let (low, high) = (
        extreme(&points, Face::ZMin, half[2])[2],
        extreme(&points, Face::ZMax, half[2])[2],
    );
    let count = ((high - low) / SECTION_MM).round().max(1.0) as usize;
    let step = (high - low) / count as f64;
    for n in 0..count {
        let z_mm = [low + n as f64 * step, low + (n + 1) as f64 * step];
        let part: Vec<Vec3> = points
            .iter()
            .filter(|p| (z_mm[0]..z_mm[1]).contains(&p[2]))
            .copied()
            .collect();
        if part.is_empty() {
            continue;
        }
        let [x_min, x_max, y_min, y_max] =
            [Face::XMin, Face::XMax, Face::YMin, Face::YMax].map(|f| extreme(&part, f, half[f.axis()]));
        placed.sections.push(PlacedSection {
            z_mm,
            x_min,
            x_max,
            y_min,
            y_max,
        });
    }
    placed
}

/// The middle one of the points farthest out, moved to the outer side of its voxel.
fn extreme(points: &[Vec3], face: Face, half_mm: f64) -> Vec3 {
    let (axis, sign) = (face.axis(), if face.is_max() { 1.0 } else { -1.0 });
    let far = points.iter().map(|p| sign * p[axis]).fold(f64::NEG_INFINITY, f64::max);
    let mut outermost: Vec<Vec3> = points
        .iter()
        .filter(|p| sign * p[axis] > far - 0.5 * half_mm)
        .copied()
        .collect();
    let centre = [0, 1, 2].map(|a| outermost.iter().map(|p| p[a]).sum::<f64>() / outermost.len() as f64);
    // on the structure, and as central as it gets
    let off = |p: &Vec3| (0..3).map(|a| (p[a] - centre[a]).powi(2)).sum::<f64>();
    outermost.sort_by(|a, b| off(a).total_cmp(&off(b)));
    let mut point = outermost[0];
    point[axis] = sign * far + sign * half_mm;
    point
}

/// The names of a label volume, from the `labels.json` (`{"labels": {"1": "spleen", …}}`) beside it.
pub fn label_names(volume: &Path) -> Result<BTreeMap<u16, String>, TeachError> {
    #[derive(Deserialize)]
    struct Names {
        labels: BTreeMap<u16, String>,
    }
    let beside = volume.with_file_name("labels.json");
    let input = |problem: String| TeachError::Input(format!("{}: {problem}", beside.display()));
    let text =
        std::fs::read(&beside).map_err(|e| input(format!("{e}; it names the labels of {}", volume.display())))?;
    let names: Names = serde_json::from_slice(&text).map_err(|e| input(e.to_string()))?;
    Ok(names.labels)
}

/// Our structure for a label's name; lobes of a lung are parts of it.
pub fn structure_of_label(label: &str) -> Option<&'static str> {
    names::by_name(label).ok().map(|known| known.structure.name)
}

/// Points from masks on the grid of the CT; specks are left out.
pub fn points_of_masks(grid: &Grid, masks: &[Mask]) -> BTreeMap<String, PlacedStructure> {
    let enough = masks.iter().filter(|mask| mask.voxel_count() >= MIN_VOXELS);
    let points = |mask: &Mask| {
        let voxels: Vec<[usize; 3]> = mask.indices().collect();
        (mask.structure.name.to_owned(), points_of_voxels(grid, &voxels))
    };
    enough.map(points).collect()
}

/// How far a structure lies from where the templates of other cases expect it.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    pub structure: String,
    /// Between the middles of the boxes; `None` when the templates do not find it.
    pub distance_mm: Option<f64>,
    /// Farther than [`FAR_MM`]: most likely it bears the wrong name or side.
    pub far: bool,
    /// In words.
    pub said: String,
}

/// Looks for the structures of a case with the templates of all others, to catch swapped names and sides before they are taught.
pub fn check(localiser: &Localiser, observation: &Observation, placed: &Placed) -> Vec<Checked> {
    let mut bank = localiser.bank.clone();
    bank.templates.remove(&placed.volume);
    let wanted = bank.structures();
    let found = match wanted.is_empty() {
        true => None,
        false => localise::find(observation, &bank, &wanted, localiser.thresholds(), &Silent),
    };
    let found = found.unwrap_or_default();
    let boxed = placed
        .structures
        .iter()
        .filter_map(|(name, s)| Some((name, s.bounds()?)));
    boxed.map(|(name, bounds)| checked(name, &bounds, &found)).collect()
}

fn checked(name: &str, bounds: &Box3, found: &[Finding]) -> Checked {
    let own = found.iter().find(|finding| finding.structure().name == name);
    let distance = |located: &Located| bounds.middle().distance_mm(located.bounds.middle());
    let distance_mm = own.and_then(Finding::located).map(distance);
    let said = match (own, distance_mm) {
        (None, _) => "new to the bank".into(),
        (Some(Finding::NotFound { reason, .. }), _) => format!("not found with the other templates: {reason}"),
        (_, Some(mm)) if mm > FAR_MM => {
            let near = |located: &&Located| distance(located) <= FAR_MM;
            let others = found.iter().filter_map(Finding::located).filter(near);
            let other = others.min_by(|a, b| distance(a).total_cmp(&distance(b)));
            let hint = other
                .map(|o| format!("; it lies where {} is expected", o.structure.name))
                .unwrap_or_default();
            format!("{mm:.0} mm from where the other templates find it{hint}")
        }
        (_, mm) => format!(
            "{:.0} mm from where the other templates find it",
            mm.unwrap_or_default()
        ),
    };
    Checked {
        structure: name.to_owned(),
        distance_mm,
        far: distance_mm.is_some_and(|mm| mm > FAR_MM),
        said,
    }
}

/// A name of the case that identifies nobody and is the same for the same series.
pub fn case_id(series_instance_uid: &Uid) -> String {
    let uid = Uid::derived(&["template", series_instance_uid.as_str()]);
    let digits = uid.as_str().rsplit('.').next().unwrap_or_default();
    format!("ct_{}", &digits[..digits.len().min(8)])
}

impl Placed {
    /// A case of this site, not for distribution.
    pub fn on_site() -> Self {
        Self {
            source: "added on site".into(),
            licence: "not for distribution".into(),
            ..Self::default()
        }
    }
}

/// Adds a template, or replaces the one of the same id, and writes the bank whole.
pub fn add(bank_path: &Path, localiser: &mut Localiser, ct: &Volume, placed: &Placed) -> Result<(), TeachError> {
    let observation = localiser.observe(ct)?;
    add_observed(bank_path, localiser, &observation, placed, Others::Dropped)?;
    Ok(())
}

/// What becomes of other structures that the bank knows of a case that is added again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// The case is taught anew.
    Dropped,
    /// More is taught on the same CT.
    Kept,
}

/// The same from a volume that was observed already. Returns the template as it is now in the bank.
pub fn add_observed(
    bank_path: &Path,
    localiser: &Localiser,
    observation: &Observation,
    placed: &Placed,
    others: Others,
) -> Result<Template, TeachError> {
    if placed.structures.is_empty() {
        return Err(TeachError::Input(format!(
            "{}: no structure is placed on it",
            placed.volume
        )));
    }
    let mut template = template(observation, placed)?;
    let mut bank = match bank_path.try_exists() {
        Ok(false) => Bank::default(),
        _ => Bank::read(bank_path)?,
    };
    if bank.templates.is_empty() {
        bank.model_sha256 = localiser.manifest.sha256.clone();
        bank.cube_lens = [observation.fine.cube_len(), observation.coarse.cube_len()];
    }
    bank.check_model(&localiser.manifest.sha256)?;
    if let (Others::Kept, Some(before)) = (others, bank.templates.get(&placed.volume)) {
        for (name, pattern) in &before.patterns {
            template.patterns.entry(name.clone()).or_insert_with(|| pattern.clone());
        }
    }
    bank.templates.insert(placed.volume.clone(), template.clone());
    write(bank_path, &bank)?;
    Ok(template)
}

/// Removes a template and writes the bank whole.
pub fn remove(bank_path: &Path, id: &str) -> Result<(), TeachError> {
    let mut bank = Bank::read(bank_path)?;
    if bank.templates.remove(id).is_none() {
        let ids: Vec<&str> = bank.templates.keys().map(String::as_str).collect();
        return Err(TeachError::Input(format!(
            "no template is called `{id}`; there are {}",
            ids.join(", ")
        )));
    }
    write(bank_path, &bank)
}

/// A reader sees the old bank or the new one, never half of one.
fn write(path: &Path, bank: &Bank) -> Result<(), TeachError> {
    let failed = |cause: std::io::Error| TeachError::Write {
        path: path.display().to_string(),
        cause,
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let part = path.with_extension("part");
    std::fs::write(&part, bank.to_bytes()).map_err(failed)?;
    std::fs::File::open(&part).and_then(|f| f.sync_all()).map_err(failed)?;
    std::fs::rename(&part, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns run to the right, rows to the front, slices to the feet.
    fn grid() -> Grid {
        let directions = [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]];
        Grid {
            origin: [100.0, 90.0, 50.0].into(),
            directions,
            spacing_mm: [2.0, 2.0, 5.0],
            size: [60, 50, 20],
        }
    }

    fn names(name: &str) -> BTreeMap<u16, String> {
        BTreeMap::from([(4, name.to_owned())])
    }

    #[test]
    fn points_of_a_box_of_voxels() {
        let mut labels = Array3::zeros((20, 50, 60));
        labels.slice_mut(ndarray::s![5..11, 10..20, 30..45]).fill(4);
        let placed = &points_of_labels(&grid(), &labels, &names("liver"))["liver"];
        assert!(placed.cut.is_empty());
        let coordinate = |f: Face| placed.extremes[&f][f.axis()];
        let six = Face::ALL.map(coordinate);
        assert_eq!(six, [11.0, 41.0, 51.0, 71.0, -2.5, 27.5]);
        // each point in the middle of its face
        let top = placed.extremes[&Face::ZMax];
        assert!((top[0] - 26.0).abs() <= 1.0 && (top[1] - 61.0).abs() <= 1.0, "{top:?}");
        assert_eq!(placed.sections.len(), 2);
        assert_eq!(placed.sections[0].z_mm, [-2.5, 12.5]);
        assert_eq!(placed.sections[1].bounds().x_mm, [11.0, 41.0]);
    }

    #[test]
    fn a_mask_at_the_last_slice_is_cut_there() {
        let mut labels = Array3::zeros((20, 50, 60));
        labels.slice_mut(ndarray::s![12..20, 10..20, 30..45]).fill(4);
        let placed = &points_of_labels(&grid(), &labels, &names("liver"))["liver"];
        assert_eq!(placed.cut, [Face::ZMin]);
        assert!(!placed.extremes.contains_key(&Face::ZMin));
        assert_eq!(cut_point(placed, Face::ZMin).unwrap()[2], -47.5);
    }

    #[test]
    fn unknown_labels_and_specks_are_left_out() {
        let mut labels = Array3::zeros((20, 50, 60));
        labels[[3, 3, 3]] = 4;
        assert!(points_of_labels(&grid(), &labels, &names("liver")).is_empty());
        labels.fill(4);
        assert!(points_of_labels(&grid(), &labels, &names("soul")).is_empty());
    }

    #[test]
    fn crossed_extremes_are_refused_with_the_numbers() {
        let mut placed = PlacedStructure::default();
        for face in Face::ALL {
            placed.extremes.insert(face, [0.0; 3]);
        }
        let observation = Observation {
            bounds: grid().bounds(),
            seen: vec![crate::localise::canonical::Seen {
                at: [0.0; 3],
                body: [0.0; 3],
            }],
            range_mm: None,
            coarse: crate::localise::fine::Features::new(ndarray::Array4::zeros((2, 2, 2, 4)), [0.0; 3], 12.0, 2),
            fine: crate::localise::fine::Features::new(ndarray::Array4::zeros((4, 4, 4, 4)), [0.0; 3], 6.0, 4),
        };
        assert!(pattern(&observation, &placed).unwrap_err().contains("crossed"));
    }
}
