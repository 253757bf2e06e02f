//! A CT and the RTSTRUCT or SEG files that belong to it, as the command line names them.

use crate::exit::Exit;
use crate::labels::take::{self, ByHand, Taken};
use crate::labels::{self, LabelsError};
use crate::nifti;
use crate::process;
use crate::progress::Silent;
use crate::series::{self, Requirements, Series};
use crate::table;
use crate::volume::{self, Volume};
use std::path::{Path, PathBuf};

/// A CT to be taught from or judged on.
pub struct Ct {
    pub volume: Volume,
    /// `None` of a NIfTI file.
    pub series: Option<Series>,
}

impl Ct {
    /// A NIfTI file, or a folder with one CT series; other objects in it are passed over.
    pub fn read(path: &Path) -> Result<Self, Exit> {
        let failed = |error: String| Exit::Failed(error);
        if path.is_file() {
            let volume = nifti::read_ct(path).map_err(|error| failed(error.to_string()))?;
            return Ok(Self { volume, series: None });
        }
        let mut series = process::collect(&[path.to_path_buf()])?;
        if series.len() > 1 {
            series.retain(|_, instances| instances.iter().any(|instance| instance.modality == "CT"));
        }
        if series.len() != 1 {
            return Err(Exit::Usage(format!(
                "{} holds {} CT series; give one",
                path.display(),
                series.len()
            )));
        }
        let instances = series.pop_first().map(|(_, instances)| instances).unwrap_or_default();
        let any = Requirements {
            min_slices: 2,
            min_extent_mm: 1.0,
        };
        let series = series::assemble(instances, &any).map_err(|rejection| failed(rejection.to_string()))?;
        if series.uneven.is_some() {
            return Err(failed(format!(
                "{}; truth and templates need an even stack",
                series.remarks.join("; ")
            )));
        }
        let volume = volume::reconstruct(&series, &Silent).map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            volume,
            series: Some(series),
        })
    }
}

/// Whether a path is to be read as DICOM labels: a folder, or a file that is neither JSON nor NIfTI.
pub fn is_dicom(path: &Path) -> bool {
    let name = path.to_string_lossy();
    path.is_dir() || ![".json", ".nii", ".nii.gz"].iter().any(|ending| name.ends_with(ending))
}

/// What a file or a folder of RTSTRUCT and SEG files holds of our structures.
pub struct Read {
    pub taken: Taken,
    /// Who made the objects, and how: no identity.
    pub made_by: String,
}

/// Takes the structures of a file, or of all objects in a folder that lie on this CT.
pub fn read(path: &Path, ct: &Ct, by_hand: &[String]) -> Result<Read, Exit> {
    let by_hand = ByHand::parse(by_hand).map_err(Exit::Usage)?;
    let Some(series) = &ct.series else {
        return Err(Exit::Usage(format!(
            "{} refers to DICOM slices: give the folder of the DICOM series as --ct, not a NIfTI file",
            path.display()
        )));
    };
    let mut objects = Vec::new();
    for file in files(path)? {
        let labels = labels::read_file(&file).map_err(|error| Exit::Failed(format!("{}: {error}", file.display())))?;
        match labels.on(series) {
            Ok(_) => objects.push(labels),
            // A patient's folder may hold the structures of other scans too.
            Err(error @ (LabelsError::OtherFrame { .. } | LabelsError::NoPlace(_))) if path.is_dir() => {
                tracing::warn!(file = %file.display(), %error, "not taken: it does not belong to this CT");
            }
            Err(error) => return Err(Exit::Failed(format!("{}: {error}", file.display()))),
        }
    }
    if objects.is_empty() {
        return Err(Exit::Failed(format!(
            "no RT Structure Set or Segmentation of this CT is at {}",
            path.display()
        )));
    }
    let taken = take::take(&objects, series, &by_hand)
        .map_err(|error| Exit::Failed(format!("{}: {error}; nothing is taken", path.display())))?;
    Ok(Read {
        taken,
        made_by: take::made_by(&objects),
    })
}

/// The file itself, or the objects of these kinds in a folder, by the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, Exit> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let instances = process::collect(&[path.to_path_buf()])?;
    let instances = instances.into_values().flatten();
    let mut files: Vec<PathBuf> = instances
        .filter(|instance| labels::SOP_CLASSES.contains(&instance.sop_class_uid.as_str()))
        .map(|instance| instance.path)
        .collect();
    files.sort();
    Ok(files)
}

/// Every region and what became of it, for a person.
pub fn shown(taken: &Taken) -> String {
    let row = |fact: &take::Fact| {
        vec![
            fact.number.to_string(),
            fact.name.clone(),
            fact.structure.unwrap_or("left out").to_owned(),
            fact.volume_ml.map(|ml| format!("{ml:.1}")).unwrap_or_default(),
            fact.remarks.join("; "),
        ]
    };
    let rows: Vec<Vec<String>> = taken.facts.iter().map(row).collect();
    table::render(&["no.", "region", "structure", "ml", "remarks"], &rows)
}
