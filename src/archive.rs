//! What lies here for others to ask for: received series and kept results, found, fetched and vouched for.
//!
//! Synchronous, and knows no wire: the DIMSE services and the web interface ask the same questions. What a query sees of a series is
//! read from its first object when the first query after its arrival comes, so reception pays nothing for it, and rows of older
//! versions are filled in the same way.

use crate::commitment::{self, Report};
use crate::dicom::fields::HeaderError;
use crate::dicom::part10;
use crate::dicom::scan::Encoding;
use crate::dicom::status::Status;
use crate::dicom::uid::Uid;
use crate::intake::{Intake, IntakeError};
use crate::query::{self, Answer, Identifier, Level, Subject, text_of};
use crate::results::dataset::{DataSet, Value};
use crate::results::header;
use crate::store::{Holding, ListedSeries, Listing, Narrowing, Store, StoreError, Unlisted, UnlistedOrigin};
use dicom::core::Tag;
use dicom::dictionary_std::tags;
use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Files read for the catalogue, studies looked at, between two transactions.
const BATCH: u32 = 200;

/// The objects of a storage directory.
#[derive(Clone)]
pub struct Archive {
    pub store: Store,
    pub intake: Intake,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Archive").field(&self.store.dir()).finish()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Rows of accepted objects cannot be written at present.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    #[error("a row of the catalogue cannot be read: {0}")]
    Catalogue(#[from] HeaderError),
    /// The identifier asks for too much; the text says which key would narrow it.
    #[error("{0}")]
    TooWide(&'static str),
}

/// Whom answers are made for.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The AE title from which what is found can be had: ours.
    pub retrieve_ae_title: String,
}

type Flow = ControlFlow<()>;

impl Archive {
    pub fn new(store: &Store, intake: &Intake) -> Self {
        Self {
            store: store.clone(),
            intake: intake.clone(),
        }
    }

    /// Calls `row` for each thing that fits, until it breaks off. Blocking.
    pub fn find(
        &self,
        identifier: &Identifier,
        asking: &Asking,
        mut row: impl FnMut(Answer) -> Flow,
    ) -> Result<(), ArchiveError> {
        self.refresh()?;
        let mut search = Search {
            archive: self,
            identifier,
            row: &mut row,
            common: common(asking),
            patients: HashSet::new(),
        };
        let narrowing = self.narrowing(identifier)?;
        if identifier.level == Level::Image && narrowing.study_uids.is_empty() && narrowing.series_uids.is_empty() {
            // Every header there is would have to be read.
            return Err(ArchiveError::TooWide(
                "level IMAGE asks for a study, series or SOP instance UID",
            ));
        }
        let mut after = String::new();
        loop {
            let studies = self.store.listed_studies(&after, &narrowing, BATCH)?;
            let Some(last) = studies.last() else { return Ok(()) };
            after.clone_from(last);
            for study in &studies {
                if search.study(study, &narrowing)?.is_break() {
                    return Ok(());
                }
            }
        }
    }

    /// The objects that an identifier names by its unique keys (PS3.4 C.4.2.1.4), in order of their series. Blocking.
    pub fn named(&self, identifier: &Identifier) -> Result<Vec<Holding>, ArchiveError> {
        self.refresh()?;
        let narrowing = self.narrowing(identifier)?;
        let unique = [
            tags::PATIENT_ID,
            tags::STUDY_INSTANCE_UID,
            tags::SERIES_INSTANCE_UID,
            tags::SOP_INSTANCE_UID,
        ];
        if unique.iter().all(|key| identifier.list(*key).is_empty()) {
            return Err(ArchiveError::TooWide(
                "name a Patient ID, a study, a series or an instance",
            ));
        }
        let instances: HashSet<&str> = identifier.list(tags::SOP_INSTANCE_UID).into_iter().collect();
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let studies = self.store.listed_studies(&after, &narrowing, BATCH)?;
            let Some(last) = studies.last() else { return Ok(found) };
            after.clone_from(last);
            for study in &studies {
                for series in self.store.listed_series(study)? {
                    let uid = series.series.series_instance_uid.as_str();
                    if narrowing.series_uids.is_empty() || narrowing.series_uids.iter().any(|asked| asked == uid) {
                        found.extend(self.store.holdings(&series.series)?);
                    }
                }
            }
            found.retain(|holding| instances.is_empty() || instances.contains(holding.sop_instance_uid.as_str()));
        }
    }

    /// Which of the objects named are kept for good: known, whole as far as their length tells, and on disk with every directory
    /// above them synced. Blocking.
    pub fn vouch(&self, request: &commitment::Request) -> Result<Report, ArchiveError> {
        self.intake.flush()?;
        let mut report = Report {
            transaction_uid: request.transaction_uid.clone(),
            kept: Vec::new(),
            failed: Vec::new(),
        };
        let mut paths = Vec::new();
        for object in &request.objects {
            let files = self.store.files_of(&object.sop_instance_uid)?;
            let of_class = || files.iter().filter(|(class, _)| *class == object.sop_class_uid);
            let reason = match of_class().find(|(_, path)| is_whole(path)) {
                Some((_, path)) => {
                    paths.push(path.clone());
                    report.kept.push(object.clone());
                    continue;
                }
                None if files.is_empty() => Status::NO_SUCH_INSTANCE,
                None if of_class().next().is_none() => Status::CLASS_INSTANCE_CONFLICT,
                None => {
                    tracing::error!(instance = %object.sop_instance_uid, "a stored object is missing or cut off");
                    Status::PROCESSING_FAILURE
                }
            };
            report.failed.push((object.clone(), reason.0));
        }
        self.intake.sync_above(paths.iter().map(PathBuf::as_path))?;
        Ok(report)
    }

    /// What an identifier says that the database can use.
    fn narrowing(&self, identifier: &Identifier) -> Result<Narrowing, StoreError> {
        let owned = |tag| identifier.exact(tag).map(str::to_owned);
        let uids = |tag| identifier.list(tag).into_iter().map(str::to_owned).collect::<Vec<_>>();
        let mut narrowing = Narrowing {
            patient_id: owned(tags::PATIENT_ID),
            accession_number: owned(tags::ACCESSION_NUMBER),
            study_dates: identifier.asked(tags::STUDY_DATE).map(query::dates).unwrap_or_default(),
            study_uids: uids(tags::STUDY_INSTANCE_UID),
            series_uids: uids(tags::SERIES_INSTANCE_UID),
        };
        if narrowing.series_uids.is_empty() && identifier.level == Level::Image {
            for uid in uids(tags::SOP_INSTANCE_UID) {
                let series = self.store.holdings_of(&uid)?.into_iter().map(|holding| holding.series);
                narrowing
                    .series_uids
                    .extend(series.map(|series| series.series_instance_uid.to_string()));
                // Known to nobody: no series has this UID, and an empty list would mean all of them.
                narrowing.series_uids.push("0".into());
            }
        }
        Ok(narrowing)
    }

    /// Lists what came since the last time. Blocking.
    fn refresh(&self) -> Result<(), ArchiveError> {
        self.intake.flush()?;
        let mut unreadable = BTreeSet::new();
        loop {
            let unlisted = self.store.unlisted(BATCH)?;
            let fresh = unlisted.into_iter().filter(|what| !unreadable.contains(&what.path));
            let mut listed = Vec::new();
            for what in fresh.collect::<Vec<_>>() {
                match listing(&what) {
                    Ok((series, listing)) => listed.push((what, series, listing)),
                    Err(problem) => {
                        tracing::warn!(path = %what.path.display(), problem, "cannot be read for queries");
                        match bare(&what) {
                            Some((series, listing)) => listed.push((what, series, listing)),
                            None => drop(unreadable.insert(what.path)),
                        }
                    }
                }
            }
            if listed.is_empty() {
                return Ok(());
            }
            self.store.list(&listed)?;
        }
    }
}

/// Its file is there, and as long as it was when it was written.
fn is_whole(path: &Path) -> bool {
    let look = || -> Result<bool, part10::Part10Error> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        let meta = part10::read_meta(&mut file)?;
        let found = length.saturating_sub(meta.data_set_offset);
        Ok(found > 0 && meta.data_set_length.is_none_or(|written| written == found))
    };
    look().unwrap_or(false)
}

/// What the catalogue says of a series, from one of its objects.
fn listing(what: &Unlisted) -> Result<(Uid, Listing), String> {
    let attributes = header::read(&what.path, &query::wanted(Level::Series)).map_err(|error| error.to_string())?;
    let series = match &what.origin {
        UnlistedOrigin::Received { series_instance_uid } => series_instance_uid.clone(),
        UnlistedOrigin::Result { .. } => {
            Uid::parse(&text_of(&attributes, tags::SERIES_INSTANCE_UID)).map_err(|bad| bad.to_string())?
        }
    };
    let mut bytes = Vec::new();
    attributes.encode(&mut bytes);
    let listing = Listing {
        patient_id: text_of(&attributes, tags::PATIENT_ID),
        accession_number: text_of(&attributes, tags::ACCESSION_NUMBER),
        study_date: text_of(&attributes, tags::STUDY_DATE).replace('.', ""),
        modality: text_of(&attributes, tags::MODALITY),
        attributes: bytes,
    };
    Ok((series, listing))
}

/// A received series whose first object cannot be read: it can be asked for by its UIDs all the same.
fn bare(what: &Unlisted) -> Option<(Uid, Listing)> {
    let UnlistedOrigin::Received { series_instance_uid } = &what.origin else {
        return None;
    };
    let mut attributes = DataSet::default();
    attributes.uid(tags::STUDY_INSTANCE_UID, &what.study_instance_uid);
    attributes.uid(tags::SERIES_INSTANCE_UID, series_instance_uid);
    let mut listing = Listing::default();
    attributes.encode(&mut listing.attributes);
    Some((series_instance_uid.clone(), listing))
}

/// The same in every answer.
fn common(asking: &Asking) -> DataSet {
    let mut common = DataSet::default();
    common.text(tags::RETRIEVE_AE_TITLE, &asking.retrieve_ae_title);
    common.text(tags::INSTANCE_AVAILABILITY, "ONLINE");
    common
}

/// A query under way.
struct Search<'a, R> {
    archive: &'a Archive,
    identifier: &'a Identifier,
    row: &'a mut R,
    common: DataSet,
    /// Patients answered already.
    patients: HashSet<String>,
}

impl<R: FnMut(Answer) -> Flow> Search<'_, R> {
    fn study(&mut self, study_instance_uid: &str, narrowing: &Narrowing) -> Result<Flow, ArchiveError> {
        let series = self.archive.store.listed_series(study_instance_uid)?;
        let Some(first) = series.first() else {
            return Ok(Flow::Continue(()));
        };
        let mut counted = self.common.clone();
        count_study(&mut counted, &series);
        let attributes = read_back(&first.attributes)?;
        match self.identifier.level {
            Level::Patient => self.patient(&attributes, &mut counted),
            Level::Study => Ok(self.consider(&attributes, &counted)),
            Level::Series | Level::Image => {
                let asked = |series: &&ListedSeries| {
                    let uid = series.series.series_instance_uid.as_str();
                    narrowing.series_uids.is_empty() || narrowing.series_uids.iter().any(|asked| asked == uid)
                };
                for series in series.iter().filter(asked) {
                    if self.series(series, &counted)?.is_break() {
                        return Ok(Flow::Break(()));
                    }
                }
                Ok(Flow::Continue(()))
            }
        }
    }

    /// A patient is told by the ID; those without one by the name.
    fn patient(&mut self, attributes: &DataSet, counted: &mut DataSet) -> Result<Flow, ArchiveError> {
        let id = text_of(attributes, tags::PATIENT_ID);
        let told_by = match id.as_str() {
            "" => format!("^{}", text_of(attributes, tags::PATIENT_NAME)),
            id => id.to_owned(),
        };
        if self.patients.contains(&told_by) || !self.fits(attributes, counted) {
            return Ok(Flow::Continue(()));
        }
        self.patients.insert(told_by);
        let numbers = [
            tags::NUMBER_OF_PATIENT_RELATED_STUDIES,
            tags::NUMBER_OF_PATIENT_RELATED_SERIES,
            tags::NUMBER_OF_PATIENT_RELATED_INSTANCES,
        ];
        if numbers.iter().any(|tag| self.identifier.is_asked(*tag)) {
            let counts = self.archive.store.patient_counts(&id)?;
            for (tag, count) in numbers.into_iter().zip(counts) {
                counted.text(tag, count.to_string());
            }
        }
        Ok(self.answer(attributes, counted))
    }

    fn series(&mut self, series: &ListedSeries, counted: &DataSet) -> Result<Flow, ArchiveError> {
        let attributes = read_back(&series.attributes)?;
        let mut counted = counted.clone();
        let count: u32 = series.objects.iter().map(|(_, count)| count).sum();
        counted.text(tags::NUMBER_OF_SERIES_RELATED_INSTANCES, count.to_string());
        if self.identifier.level == Level::Series {
            return Ok(self.consider(&attributes, &counted));
        }
        let wanted = query::wanted(Level::Image);
        for holding in self.archive.store.holdings(&series.series)? {
            counted.uid(tags::SOP_INSTANCE_UID, &holding.sop_instance_uid);
            counted.uid(tags::SOP_CLASS_UID, &holding.sop_class_uid);
            // A file that cannot be read now is still there to be asked for.
            let own = header::read(&holding.path, &wanted);
            if self.consider(own.as_ref().unwrap_or(&attributes), &counted).is_break() {
                return Ok(Flow::Break(()));
            }
        }
        Ok(Flow::Continue(()))
    }

    fn fits(&self, attributes: &DataSet, counted: &DataSet) -> bool {
        self.identifier.fits(&Subject { attributes, counted })
    }

    fn answer(&mut self, attributes: &DataSet, counted: &DataSet) -> Flow {
        (self.row)(self.identifier.answer(&Subject { attributes, counted }))
    }

    fn consider(&mut self, attributes: &DataSet, counted: &DataSet) -> Flow {
        match self.fits(attributes, counted) {
            true => self.answer(attributes, counted),
            false => Flow::Continue(()),
        }
    }
}

fn read_back(bytes: &[u8]) -> Result<DataSet, HeaderError> {
    header::all(bytes, Encoding::EXPLICIT_LE)
}

fn count_study(counted: &mut DataSet, series: &[ListedSeries]) {
    let modalities: BTreeSet<&str> = series.iter().map(|series| series.modality.as_str()).collect();
    let modalities = modalities
        .into_iter()
        .filter(|m| !m.is_empty())
        .collect::<Vec<_>>()
        .join("\\");
    put(counted, tags::MODALITIES_IN_STUDY, modalities);
    let objects = || series.iter().flat_map(|series| &series.objects);
    let classes: BTreeSet<&str> = objects().map(|(class, _)| class.as_str()).collect();
    counted.text(
        tags::SOP_CLASSES_IN_STUDY,
        classes.into_iter().collect::<Vec<_>>().join("\\"),
    );
    counted.text(tags::NUMBER_OF_STUDY_RELATED_SERIES, series.len().to_string());
    let count: u32 = objects().map(|(_, count)| count).sum();
    counted.text(tags::NUMBER_OF_STUDY_RELATED_INSTANCES, count.to_string());
}

/// Text that a sender wrote and that need not be ASCII.
fn put(data: &mut DataSet, tag: Tag, text: String) {
    data.insert(
        tag,
        Value::Bytes(crate::results::dataset::standard_vr(tag), text.into_bytes()),
    );
}
