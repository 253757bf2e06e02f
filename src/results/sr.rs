//! Structured report of the measurements (PS3.16 TID 1500): volume and mean HU of every structure outlined.
//!
//! As Enhanced SR. TID 1500 asks for that class at least, and nothing we say needs more: no coordinates, no references between
//! items. It is the oldest class that holds the template, so the one that most archives and viewers take; highdicom, DCMTK
//! and dcmqi read it like the newer ones.
//!
//! One Volumetric ROI group (TID 1411) for each structure, tied to its segment by number and by Tracking UID, where the receiver
//! gets that very SEG; else a plain measurement group (TID 1501) that names the slices. A reference to an object that never comes is
//! worse than none, so there are three kinds, and a destination gets the one that is true there: [`write`] refers to the BINARY SEG,
//! [`write_beside_labelmap`] to the label map, [`write_of_slices`] to neither. The Tracking UID is the same in all SEGs of a job: by
//! it the groups of the last one find their segments too.

use crate::mask::Mask;
use crate::results::common;
use crate::results::content::{self, CONTAINS, HAS_CONCEPT_MOD, HAS_OBS_CONTEXT, dcm};
use crate::results::dataset::DataSet;
use crate::results::origin::Origin;
use crate::results::{self, Measure, ResultError, ResultObject, Source, reference};
use crate::structure::Code;
use dicom::dictionary_std::tags;

pub(crate) const ENHANCED_SR_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.88.22";
const BESIDE_BINARY: common::Kind = common::Kind {
    name: "sr",
    sop_class_uid: ENHANCED_SR_STORAGE,
    modality: "SR",
    series_number_offset: 93,
};
const BESIDE_LABELMAP: common::Kind = common::Kind {
    name: "sr_labelmap",
    ..BESIDE_BINARY
};
const OF_SLICES: common::Kind = common::Kind {
    name: "sr_slices",
    ..BESIDE_BINARY
};

pub(crate) const CT: Code = Code {
    value: "25045-6",
    scheme: "LN",
    meaning: "CT unspecified body region",
};
const MILLILITRE: Code = ucum("mL", "milliliter");
const HOUNSFIELD: Code = ucum("[hnsf'U]", "Hounsfield unit");

const fn sct(value: &'static str, meaning: &'static str) -> Code {
    Code {
        value,
        scheme: "SCT",
        meaning,
    }
}

const fn ucum(value: &'static str, meaning: &'static str) -> Code {
    Code {
        value,
        scheme: "UCUM",
        meaning,
    }
}

/// Writes the report of all masks, in their order. It refers to the BINARY SEG where that is written too.
pub fn write(source: &Source<'_>) -> Result<ResultObject, ResultError> {
    document(source, &BESIDE_BINARY, "seg")
}

/// The same for a receiver that gets the label map alone.
pub fn write_beside_labelmap(source: &Source<'_>) -> Result<ResultObject, ResultError> {
    document(source, &BESIDE_LABELMAP, "labelmap")
}

/// The same for a receiver that gets no SEG, or of which nobody knows yet which one it will take.
pub fn write_of_slices(source: &Source<'_>) -> Result<ResultObject, ResultError> {
    document(source, &OF_SLICES, "")
}

/// `segmentation` is the kind whose segments the report refers to, where it is written in the same job for the same receiver.
fn document(source: &Source<'_>, kind: &common::Kind, segmentation: &str) -> Result<ResultObject, ResultError> {
    let segmentation = results::kind(segmentation).filter(|kind| source.kinds.contains(&kind.name));
    common::check_masks(source)?;
    if source.measures.len() != source.masks.len() {
        let (measures, masks) = (source.measures.len(), source.masks.len());
        return Err(ResultError::Content(format!("{measures} measures of {masks} masks")));
    }
    let origin = Origin::of(source)?.nowhere();
    let mut draft = common::begin_at(&origin, kind)?;
    let description = common::series_description("Volumes", source.identity.revision);
    draft.data.text(tags::SERIES_DESCRIPTION, description);
    let measured = source.masks.iter().zip(source.measures).enumerate();
    let groups = measured.map(|(n, (mask, measure))| {
        let segment = segmentation.map(|kind| segment(&origin, kind, n));
        group(source, segment, (mask, measure))
    });
    let children = vec![
        content::code(HAS_CONCEPT_MOD, dcm("121058", "Procedure reported"), CT),
        content::container(dcm("126010", "Imaging Measurements"), None, groups.collect()),
    ];

    let series = source.series;
    let objects = reference::of_series(series);
    let slices = objects
        .iter()
        .map(|o| (&o.instance.sop_class_uid, &o.instance.sop_instance_uid));
    let mut evidence = vec![(&series.series_instance_uid, slices.collect())];
    let referred = segmentation.map(|kind| {
        let uids = (
            common::known_uid(kind.sop_class_uid),
            origin.sop_instance_uid(kind.name),
        );
        (origin.series_instance_uid_of(kind.name), uids)
    });
    if let Some((series_uid, (class_uid, instance_uid))) = &referred {
        evidence.push((series_uid, vec![(class_uid, instance_uid)]));
    }
    let title = (dcm("126000", "Imaging Measurement Report"), Some("1500"));
    content::document(&mut draft.data, &origin, evidence, title, children);
    draft.finish(kind, &origin)
}

/// Segment `n` + 1 of a SEG of this job: the number is the same in every encoding.
fn segment(origin: &Origin<'_>, kind: &results::Kind, n: usize) -> DataSet {
    let name = dcm("121191", "Referenced Segment");
    let class_uid = common::known_uid(kind.sop_class_uid);
    content::segment(name, &class_uid, &origin.sop_instance_uid(kind.name), n as u16 + 1)
}

/// What was measured of one structure.
fn group(source: &Source<'_>, segment: Option<DataSet>, (mask, measure): (&Mask, &Measure)) -> DataSet {
    let structure = mask.structure;
    let mut items = vec![
        content::text(HAS_OBS_CONTEXT, dcm("112039", "Tracking Identifier"), structure.name),
        content::uid_reference(
            HAS_OBS_CONTEXT,
            dcm("112040", "Tracking Unique Identifier"),
            &common::tracking_uid(source, structure),
        ),
        content::code(CONTAINS, sct("276214006", "Finding category"), structure.category),
        content::code(CONTAINS, dcm("121071", "Finding"), structure.kind),
    ];
    let mut site = content::code(HAS_CONCEPT_MOD, sct("363698007", "Finding Site"), structure.kind);
    if let Some(side) = structure.laterality {
        let laterality = content::code(HAS_CONCEPT_MOD, sct("272741003", "Laterality"), side);
        site.items(tags::CONTENT_SEQUENCE, vec![laterality]);
    }
    items.push(site);
    items.extend(algorithm(source));
    let template = if segment.is_some() { "1411" } else { "1501" };
    items.extend(place(source, segment, mask));
    items.extend(measurements(measure));
    content::container(dcm("125007", "Measurement Group"), Some(template), items)
}

/// Algorithm Identification (TID 4019).
fn algorithm(source: &Source<'_>) -> Vec<DataSet> {
    let said = |value, meaning, said: &str| content::text(HAS_CONCEPT_MOD, dcm(value, meaning), said);
    let parameters = common::algorithm_parameters(source);
    let mut items = vec![
        said("111001", "Algorithm Name", &common::algorithm_name(source)),
        said("111003", "Algorithm Version", common::VERSION),
    ];
    if !parameters.is_empty() {
        items.push(said("111002", "Algorithm Parameters", &parameters));
    }
    items
}

/// The segment that was measured, or the slices it lies on.
fn place(source: &Source<'_>, segment: Option<DataSet>, mask: &Mask) -> Vec<DataSet> {
    let series = source.series;
    let Some(segment) = segment else {
        let name = dcm("121112", "Source of Measurement");
        let objects = reference::objects(mask.slices().map(|k| &series.slices[k]));
        return objects.iter().map(|object| content::image(name, object)).collect();
    };
    let name = dcm("121232", "Source Series for Segmentation");
    vec![
        segment,
        content::uid_reference(CONTAINS, name, &series.series_instance_uid),
    ]
}

/// Volume, mean HU, and why the outline is doubtful where it is.
fn measurements(measure: &Measure) -> Vec<DataSet> {
    let mut mean = content::number(dcm("112031", "Attenuation Coefficient"), measure.mean_hu, HOUNSFIELD);
    let derivation = content::code(HAS_CONCEPT_MOD, dcm("121401", "Derivation"), sct("373098007", "Mean"));
    mean.items(tags::CONTENT_SEQUENCE, vec![derivation]);
    let mut items = vec![
        content::number(sct("118565006", "Volume"), measure.volume_ml, MILLILITRE),
        mean,
    ];
    let doubt = |remark: &String| content::text(CONTAINS, dcm("121106", "Comment"), remark);
    items.extend(measure.remarks.iter().map(doubt));
    items
}
