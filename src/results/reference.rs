//! References to the images a result was made from: single-frame slices, or frames of a multi-frame object (PS3.3 table 10-3).

use crate::dicom::header::Instance;
use crate::results::dataset::DataSet;
use crate::series::Series;
use dicom::dictionary_std::tags;

/// One stored object of a series with the frames of it that are meant.
pub(crate) struct SourceObject<'a> {
    pub instance: &'a Instance,
    /// Ascending, from 1; empty when the object as a whole is meant.
    frames: Vec<u32>,
}

impl SourceObject<'_> {
    /// An item that refers to it.
    pub(crate) fn item(&self) -> DataSet {
        let mut item = DataSet::default();
        self.put(&mut item);
        item
    }

    pub(crate) fn put(&self, item: &mut DataSet) {
        item.put_reference(&self.instance.sop_class_uid, &self.instance.sop_instance_uid);
        if !self.frames.is_empty() {
            let numbers: Vec<String> = self.frames.iter().map(u32::to_string).collect();
            item.text(tags::REFERENCED_FRAME_NUMBER, numbers.join("\\"));
        }
    }
}

/// One slice: the object, or its frame.
pub(crate) fn slice(instance: &Instance) -> SourceObject<'_> {
    SourceObject {
        instance,
        frames: instance.frame_number.into_iter().collect(),
    }
}

/// The objects that some slices come from, each once, in the order of the slices. Frame numbers are named unless all are meant.
pub(crate) fn objects<'a>(slices: impl Iterator<Item = &'a Instance>) -> Vec<SourceObject<'a>> {
    let mut objects: Vec<SourceObject<'a>> = Vec::new();
    let mut at = std::collections::BTreeMap::new();
    for instance in slices {
        let place = *at.entry(&instance.sop_instance_uid).or_insert_with(|| {
            objects.push(SourceObject {
                instance,
                frames: Vec::new(),
            });
            objects.len() - 1
        });
        objects[place].frames.extend(instance.frame_number);
    }
    for object in &mut objects {
        object.frames.sort_unstable();
        if object.frames.len() == object.instance.number_of_frames {
            object.frames.clear();
        }
    }
    objects
}

/// The objects of a whole series.
pub(crate) fn of_series(series: &Series) -> Vec<SourceObject<'_>> {
    objects(series.slices.iter())
}
