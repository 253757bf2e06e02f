//! All that one or several objects hold of our structures, as masks on a CT; what is left out is said with its reason.

use crate::labels::names::{self, Known};
use crate::labels::{Labels, LabelsError, Region};
use crate::mask::{Block, Mask};
use crate::series::Series;
use crate::structure::{self, STRUCTURES, Structure};
use std::collections::{BTreeMap, BTreeSet};

/// Regions that a person maps: by name, or by number as `#3`, to a structure or to none.
#[derive(Clone, Debug, Default)]
pub struct ByHand(BTreeMap<String, Option<&'static Structure>>);

impl ByHand {
    /// From `REGION=structure` and `REGION=none`. The error is a sentence.
    pub fn parse(rules: &[String]) -> Result<Self, String> {
        let rule = |rule: &String| {
            let (region, name) = rule
                .rsplit_once('=')
                .ok_or_else(|| format!("{rule:?} is no mapping; write \"REGION=structure\" or \"REGION=none\""))?;
            let structure = match name.trim() {
                "none" => None,
                name => Some(structure::by_name(name).ok_or_else(|| format!("no structure is called {name:?}"))?),
            };
            Ok((region.trim().to_owned(), structure))
        };
        rules.iter().map(rule).collect::<Result<_, _>>().map(Self)
    }

    fn of(&self, region: &Region) -> Option<(&str, Option<&'static Structure>)> {
        let number = format!("#{}", region.number);
        let found = self
            .0
            .get_key_value(&number)
            .or_else(|| self.0.get_key_value(region.name.trim()));
        found.map(|(key, structure)| (key.as_str(), *structure))
    }
}

/// Why nothing is taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error(transparent)]
    Labels(#[from] LabelsError),
    /// The regions do not make one set of structures; the text says what a person can do.
    #[error("{0}")]
    Regions(String),
}

/// What became of a region.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Fact {
    pub number: i64,
    pub name: String,
    /// `None` when it was left out.
    pub structure: Option<&'static str>,
    pub volume_ml: Option<f64>,
    /// Why it was left out, or what is to be known of it.
    pub remarks: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Taken {
    /// In the order of the anatomy table.
    pub masks: Vec<Mask>,
    /// Every region of every object.
    pub facts: Vec<Fact>,
}

/// Takes every region that is one of our structures.
///
/// # Errors
/// When an object does not lie on this CT, a structure's region cannot be placed, two regions are the same structure, or a
/// mapping by hand names no region.
pub fn take(objects: &[Labels], series: &Series, by_hand: &ByHand) -> Result<Taken, TakeError> {
    let mut facts = Vec::new();
    let mut found: BTreeMap<&'static str, (Block, bool, String)> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for labels in objects {
        let placer = labels.on(series)?;
        for region in &labels.regions {
            let known = match by_hand.of(region) {
                Some((rule, structure)) => {
                    used.insert(rule);
                    structure
                        .map(|structure| Known { structure, part: false })
                        .ok_or_else(|| "left out by hand".into())
                }
                None => names::recognise(region),
            };
            let mut fact = Fact {
                number: region.number,
                name: region.name.clone(),
                structure: None,
                volume_ml: None,
                remarks: Vec::new(),
            };
            match known {
                Err(reason) => fact.remarks.push(reason),
                Ok(known) => {
                    let placed = placer.place(region)?;
                    fact.remarks.extend(placed.notes);
                    if placed.gaps > 0 {
                        fact.remarks
                            .push(format!("{} slices in between show nothing of it", placed.gaps));
                    }
                    match placed.block {
                        None => fact.remarks.push("no voxel of this CT belongs to it".into()),
                        Some(block) => {
                            fact.structure = Some(known.structure.name);
                            fact.volume_ml = Some(block.voxel_count() as f64 * series.grid.voxel_volume_ml());
                            join(&mut found, known, block, region)?;
                        }
                    }
                }
            }
            facts.push(fact);
        }
    }
    if let Some(rule) = by_hand.0.keys().find(|rule| !used.contains(rule.as_str())) {
        let names: Vec<&str> = facts.iter().map(|fact| fact.name.as_str()).collect();
        return Err(TakeError::Regions(format!(
            "no region is called {rule:?}; there are {}",
            names.join(", ")
        )));
    }
    let mask = |structure| Some(Mask::of(structure, found.remove(structure.name)?.0));
    Ok(Taken {
        masks: STRUCTURES.iter().filter_map(mask).collect(),
        facts,
    })
}

/// Who made the objects, and how: no identity.
pub fn made_by(objects: &[Labels]) -> String {
    let mut ways: Vec<&str> = objects
        .iter()
        .flat_map(|o| &o.regions)
        .map(|region| region.made.as_str())
        .collect();
    ways.sort();
    ways.dedup();
    ways.retain(|way| !way.is_empty());
    let makers: Vec<&str> = objects.iter().map(|o| o.manufacturer.as_str()).collect();
    let how = if ways.is_empty() {
        "not said how".into()
    } else {
        ways.join(", ").to_lowercase()
    };
    format!("from contours of {} ({how})", makers.join(", "))
}

/// Parts of a structure are joined; two of the whole would leave open which is meant.
fn join(
    found: &mut BTreeMap<&'static str, (Block, bool, String)>,
    known: Known,
    block: Block,
    region: &Region,
) -> Result<(), TakeError> {
    let name = known.structure.name;
    let joined = match found.remove(name) {
        None => block,
        Some((other, true, _)) if known.part => other.union(&block),
        Some((.., other)) => {
            return Err(TakeError::Regions(format!(
                "{other} and {} are both {name}; leave one out with --as \"#{}=none\"",
                region.title(),
                region.number
            )));
        }
    };
    found.insert(name, (joined, known.part, region.title()));
    Ok(())
}
