//! Templates: for each structure of each template volume, what its extreme points look like to the network and where they lie.
//!
//! One file: the magic `MEDLBNK2`, the length of the index (u32, little endian), the index as JSON, then one record of signed
//! bytes per searched point and part: its fine cube, its coarse cube, every feature times 127. Eight bits cost about one per cent of a
//! feature vector's length and halve the file against half floats. It holds no pixel and nobody's name.

use crate::geometry::Vec3;
use crate::inference::runtime::InferenceError;
use crate::localise::{Face, Section};
use crate::structure::{self, Structure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const MAGIC: &[u8; 8] = b"MEDLBNK2";
/// Far above any bank; a length field may say anything.
const MAX_BYTES: u64 = 1 << 28;
const MAX_CUBE: usize = 1 << 16;
const MAX_PARTS: usize = 1000;
const QUANTUM: f32 = 127.0;

/// Template features and points per structure, keyed by the hash of the model that made them. No pixels, no identity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bank {
    /// SHA-256 of the model file, lower-case hex; features of another model mean nothing.
    pub model_sha256: String,
    /// Numbers in a fine and in a coarse cube.
    pub cube_lens: [usize; 2],
    /// By id, so that the bytes of a bank do not depend on the order of teaching.
    pub templates: BTreeMap<String, Template>,
}

/// One volume that structures were taught from.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    pub source: String,
    pub licence: String,
    /// Who placed the points, and how they were checked.
    pub made_by: String,
    pub patterns: BTreeMap<String, Pattern>,
}

/// A structure as one template shows it. Millimetres are the template's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pattern {
    /// In the order of [`Face::ALL`].
    pub landmarks: [Option<Landmark>; 6],
    /// Ascending along z.
    pub parts: Vec<Part>,
}

/// A part of a structure along z.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub bounds: Section,
    /// Body coordinate of its middle, `[x, y, z]`.
    pub body: Vec3,
    /// What the network sees there.
    pub cubes: Cubes,
}

/// A point on a face of the structure's box.
#[derive(Clone, Debug, PartialEq)]
pub struct Landmark {
    pub at: Vec3,
    /// Body coordinate, `[x, y, z]`.
    pub body: Vec3,
    /// What the network sees there; `None` where the template's field of view cut the structure: then this is the cut.
    pub cubes: Option<Cubes>,
}

/// Unit feature vectors around a point (`[z, y, x, channel]` flattened).
#[derive(Clone, Debug, PartialEq)]
pub struct Cubes {
    pub fine: Vec<f32>,
    pub coarse: Vec<f32>,
}

impl Pattern {
    pub fn landmark(&self, face: Face) -> Option<&Landmark> {
        self.landmarks[face as usize].as_ref()
    }

    /// Side lengths, where both faces of an axis are really seen, `[x, y, z]`.
    pub fn size_mm(&self) -> [Option<f64>; 3] {
        [0, 1, 2].map(|axis| {
            let [low, high] = Face::of_axis(axis).map(|f| self.landmark(f).filter(|l| l.cubes.is_some()));
            Some(high?.at[axis] - low?.at[axis])
        })
    }
}

/// The index as stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    model_sha256: String,
    fine_len: usize,
    coarse_len: usize,
    templates: BTreeMap<String, StoredTemplate>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredTemplate {
    source: String,
    licence: String,
    made_by: String,
    structures: BTreeMap<String, StoredPattern>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPattern {
    landmarks: BTreeMap<Face, StoredLandmark>,
    parts: Vec<StoredPart>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPart {
    bounds: Section,
    body: Vec3,
    /// Number of its record.
    cubes: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredLandmark {
    at: Vec3,
    body: Vec3,
    /// Number of its record.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cubes: Option<usize>,
}

impl Bank {
    pub fn read(path: &Path) -> Result<Self, InferenceError> {
        let missing = |e: std::io::Error| {
            InferenceError::Missing(format!(
                "template bank {}: {e}; `medlsamd template add` makes one",
                path.display()
            ))
        };
        let length = std::fs::metadata(path).map_err(missing)?.len();
        if length > MAX_BYTES {
            return Err(damaged(path, &format!("{length} bytes are more than a bank can have")));
        }
        Self::parse(&std::fs::read(path).map_err(missing)?).map_err(|problem| damaged(path, &problem))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin with MEDLBNK2")?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or("it ends within its header")?;
        let length = u32::from_le_bytes(*length) as usize;
        let (index, records) = rest.split_at_checked(length).ok_or("it ends within its index")?;
        let index: Index = serde_json::from_slice(index).map_err(|e| format!("its index is not readable: {e}"))?;
        let cube_lens = [index.fine_len, index.coarse_len];
        if cube_lens.iter().any(|n| !(1..=MAX_CUBE).contains(n)) {
            return Err(format!("cubes of {cube_lens:?} numbers"));
        }
        let records: Vec<&[u8]> = records.chunks(cube_lens.iter().sum()).collect();
        let mut templates = BTreeMap::new();
        for (id, mut stored) in index.templates {
            let mut patterns = BTreeMap::new();
            for (name, pattern) in std::mem::take(&mut stored.structures) {
                if structure::by_name(&name).is_none() {
                    return Err(format!(
                        "template {id} holds `{name}`, which this version does not know"
                    ));
                }
                let pattern = pattern
                    .unpack(&records, cube_lens)
                    .map_err(|e| format!("template {id}, {name}: {e}"))?;
                patterns.insert(name, pattern);
            }
            let StoredTemplate {
                source,
                licence,
                made_by,
                ..
            } = stored;
            templates.insert(
                id,
                Template {
                    source,
                    licence,
                    made_by,
                    patterns,
                },
            );
        }
        Ok(Self {
            model_sha256: index.model_sha256,
            cube_lens,
            templates,
        })
    }

    /// The file's bytes; the same bank gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut records = Records::default();
        let mut templates = BTreeMap::new();
        for (id, template) in &self.templates {
            let mut structures = BTreeMap::new();
            for (name, pattern) in &template.patterns {
                let mut landmarks = BTreeMap::new();
                for face in Face::ALL {
                    let Some(Landmark { at, body, cubes }) = pattern.landmark(face) else {
                        continue;
                    };
                    let number = cubes.as_ref().map(|cubes| records.push(cubes));
                    landmarks.insert(
                        face,
                        StoredLandmark {
                            at: at.map(hundredths),
                            body: body.map(hundredths),
                            cubes: number,
                        },
                    );
                }
                let stored = |part: &Part| StoredPart {
                    bounds: part.bounds.rounded(),
                    body: part.body.map(hundredths),
                    cubes: records.push(&part.cubes),
                };
                let parts = pattern.parts.iter().map(stored).collect();
                structures.insert(name.clone(), StoredPattern { landmarks, parts });
            }
            let Template {
                source,
                licence,
                made_by,
                patterns: _,
            } = template.clone();
            templates.insert(
                id.clone(),
                StoredTemplate {
                    source,
                    licence,
                    made_by,
                    structures,
                },
            );
        }
        let [fine_len, coarse_len] = self.cube_lens;
        let index = Index {
            model_sha256: self.model_sha256.clone(),
            fine_len,
            coarse_len,
            templates,
        };
        let index = serde_json::to_vec(&index).expect("plain data");
        let length = u32::try_from(index.len()).expect("an index under 4 GiB");
        [MAGIC.as_slice(), &length.to_le_bytes(), &index, &records.bytes].concat()
    }

    /// Takes the templates of another bank of the same model in; one of the same id replaces ours.
    ///
    /// # Errors
    /// When another model made it.
    pub fn join(&mut self, other: Self) -> Result<(), InferenceError> {
        if !other.templates.is_empty() {
            other.check_model(&self.model_sha256)?;
        }
        self.templates.extend(other.templates);
        Ok(())
    }

    /// Names of the structures that at least one template holds.
    pub fn structures(&self) -> Vec<&'static Structure> {
        let held = |s: &&Structure| self.templates.values().any(|t| t.patterns.contains_key(s.name));
        structure::sought().filter(held).collect()
    }

    /// The patterns of a structure, with the ids of their templates.
    pub fn patterns<'a>(&'a self, structure: &str) -> Vec<(&'a str, &'a Pattern)> {
        self.templates
            .iter()
            .filter_map(|(id, t)| Some((id.as_str(), t.patterns.get(structure)?)))
            .collect()
    }

    /// Refuses features that another model made.
    pub fn check_model(&self, sha256: &str) -> Result<(), InferenceError> {
        if self.model_sha256.eq_ignore_ascii_case(sha256) {
            return Ok(());
        }
        let problem = format!(
            "the template bank was made by model {}…, this one is {}…: teach the templates again with this model",
            self.model_sha256.get(..12).unwrap_or("?"),
            sha256.get(..12).unwrap_or("?")
        );
        Err(InferenceError::Model {
            model: "localiser".into(),
            problem,
        })
    }
}

fn damaged(path: &Path, problem: &str) -> InferenceError {
    InferenceError::Model {
        model: format!("template bank {}", path.display()),
        problem: problem.into(),
    }
}

fn hundredths(v: f64) -> f64 {
    (v * 100.0).round() / 100.0
}

/// The records of a bank being written, and how many there are.
#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
    count: usize,
}

impl Records {
    fn push(&mut self, cubes: &Cubes) -> usize {
        let byte = |v: &f32| (v * QUANTUM).round().clamp(-QUANTUM, QUANTUM) as i8 as u8;
        self.bytes.extend(cubes.fine.iter().chain(&cubes.coarse).map(byte));
        self.count += 1;
        self.count - 1
    }
}

impl Section {
    /// Its middle, `[x, y, z]`.
    pub fn middle(&self) -> Vec3 {
        [self.x_mm, self.y_mm, self.z_mm].map(|[low, high]| 0.5 * (low + high))
    }

    fn rounded(&self) -> Self {
        Self {
            z_mm: self.z_mm.map(hundredths),
            y_mm: self.y_mm.map(hundredths),
            x_mm: self.x_mm.map(hundredths),
        }
    }

    fn is_proper(&self) -> bool {
        [self.z_mm, self.y_mm, self.x_mm]
            .iter()
            .all(|[low, high]| low.is_finite() && high.is_finite() && low <= high)
    }
}

impl StoredPattern {
    fn unpack(self, records: &[&[u8]], cube_lens: [usize; 2]) -> Result<Pattern, String> {
        let cubes = |number: usize| {
            let whole = |r: &&&[u8]| r.len() == cube_lens.iter().sum::<usize>();
            let record = records.get(number).filter(whole);
            Ok::<_, String>(unpack(
                record.ok_or(format!("record {number} is not in the file"))?,
                cube_lens[0],
            ))
        };
        let finite = |points: &[Vec3]| points.iter().flatten().all(|v| v.is_finite());
        if self.parts.len() > MAX_PARTS || !self.parts.iter().all(|p| p.bounds.is_proper() && finite(&[p.body])) {
            return Err("its parts are crossed, infinite or too many".into());
        }
        let mut pattern = Pattern::default();
        for StoredPart {
            bounds,
            body,
            cubes: number,
        } in self.parts
        {
            let cubes = cubes(number)?;
            pattern.parts.push(Part { bounds, body, cubes });
        }
        for (
            face,
            StoredLandmark {
                at,
                body,
                cubes: number,
            },
        ) in self.landmarks
        {
            if !finite(&[at, body]) {
                return Err(format!("{face:?} is not finite"));
            }
            let cubes = number.map(cubes).transpose()?;
            pattern.landmarks[face as usize] = Some(Landmark { at, body, cubes });
        }
        Ok(pattern)
    }
}

fn unpack(record: &[u8], fine_len: usize) -> Cubes {
    let values: Vec<f32> = record.iter().map(|b| f32::from(*b as i8) / QUANTUM).collect();
    let (fine, coarse) = values.split_at(fine_len);
    Cubes {
        fine: fine.to_vec(),
        coarse: coarse.to_vec(),
    }
}
