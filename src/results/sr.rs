//! Structured report of the measurements (PS3.16 TID 1500): volume and mean HU of every structure outlined.
//!
//! As Enhanced SR. TID 1500 asks for that class at least, and nothing we say needs more: no coordinates, no references between
//! items. It is the oldest class that holds the template, so the one that most archives and viewers take; highdicom, DCMTK
//! and dcmqi read it like the newer ones.
//!
//! One Volumetric ROI group (TID 1411) for each structure, tied to its segment by number and by Tracking UID, where the SEG is
//! written too; else a plain measurement group (TID 1501) that names the slices.

use crate::dicom::uid::Uid;
use crate::mask::Mask;
use crate::results::common;
use crate::results::content::{self, CONTAINS, HAS_CONCEPT_MOD, HAS_OBS_CONTEXT, dcm};
use crate::results::dataset::DataSet;
use crate::results::origin::Origin;
use crate::results::{self, Measure, ResultError, ResultObject, Source, reference};
use crate::structure::Code;
use dicom::dictionary_std::tags;

pub(crate) const ENHANCED_SR_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.88.22";
const KIND: common::Kind = common::Kind {
    name: "sr",
    sop_class_uid: ENHANCED_SR_STORAGE,
    modality: "SR",
    series_number_offset: 93,
};
/// The kind whose segments the report refers to.
const SEGMENTATION: &str = "seg";

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

/// Writes the report of all masks, in their order.
pub fn write(source: &Source<'_>) -> Result<ResultObject, ResultError> {
    common::check_masks(source)?;
    if source.measures.len() != source.masks.len() {
        let (measures, masks) = (source.measures.len(), source.masks.len());
        return Err(ResultError::Content(format!("{measures} measures of {masks} masks")));
    }
    let origin = Origin::of(source)?.nowhere();
    let mut draft = common::begin_at(&origin, &KIND)?;
    let description = common::series_description("Volumes", source.identity.revision);
    draft.data.text(tags::SERIES_DESCRIPTION, description);
    let measured = source.masks.iter().zip(source.measures).enumerate();
    let groups = measured.map(|(n, (mask, measure))| group(source, &origin, n, (mask, measure)));
    let children = vec![
        content::code(HAS_CONCEPT_MOD, dcm("121058", "Procedure reported"), CT),
        content::container(dcm("126010", "Imaging Measurements"), None, groups.collect()),
    ];

    let segmentation = [&segmentation_storage(), &origin.sop_instance_uid(SEGMENTATION)];
    let segmentation_series = origin.series_instance_uid_of(SEGMENTATION);
    let series = source.series;
    let objects = reference::of_series(series);
    let slices = objects
        .iter()
        .map(|o| (&o.instance.sop_class_uid, &o.instance.sop_instance_uid));
    let mut evidence = vec![(&series.series_instance_uid, slices.collect())];
    if segmented(source) {
        evidence.push((&segmentation_series, vec![segmentation.into()]));
    }
    let title = (dcm("126000", "Imaging Measurement Report"), Some("1500"));
    content::document(&mut draft.data, &origin, evidence, title, children);
    draft.finish(&KIND, &origin)
}

fn segmentation_storage() -> Uid {
    let kind = results::kind(SEGMENTATION).expect("a row of the table");
    common::known_uid(kind.sop_class_uid)
}

/// Whether a SEG is written in the same job for the same receiver, so that its segments can be referred to.
fn segmented(source: &Source<'_>) -> bool {
    source.kinds.contains(&SEGMENTATION)
}

/// What was measured of one structure.
fn group(source: &Source<'_>, origin: &Origin<'_>, n: usize, (mask, measure): (&Mask, &Measure)) -> DataSet {
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
    items.extend(place(source, origin, n, mask));
    items.extend(measurements(measure));
    let template = if segmented(source) { "1411" } else { "1501" };
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
fn place(source: &Source<'_>, origin: &Origin<'_>, n: usize, mask: &Mask) -> Vec<DataSet> {
    let series = source.series;
    if !segmented(source) {
        let name = dcm("121112", "Source of Measurement");
        let objects = reference::objects(mask.slices().map(|k| &series.slices[k]));
        return objects.iter().map(|object| content::image(name, object)).collect();
    }
    vec![
        content::segment(
            dcm("121191", "Referenced Segment"),
            &segmentation_storage(),
            &origin.sop_instance_uid(SEGMENTATION),
            n as u16 + 1,
        ),
        content::uid_reference(
            CONTAINS,
            dcm("121232", "Source Series for Segmentation"),
            &series.series_instance_uid,
        ),
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
