//! What an object says of where it comes from, whether or not its series could be assembled.

use crate::dicom::header::Instance;
use crate::dicom::uid::Uid;
use crate::results::common;
use crate::results::{self, Identity, ModelUsed, ResultError, Source};
use std::path::Path;

/// Where an object's patient, study and equipment come from: less than a [`Source`], because a series that was never assembled
/// has patient and study too.
#[derive(Clone, Copy)]
pub(crate) struct Origin<'a> {
    /// An instance of the series, whose attributes are copied.
    pub path: &'a Path,
    pub study_instance_uid: &'a Uid,
    pub series_instance_uid: &'a Uid,
    /// `None` for objects that lie nowhere in the patient: reports and pictures.
    pub frame_of_reference_uid: Option<&'a Uid>,
    pub identity: &'a Identity,
    pub models: &'a [ModelUsed],
    pub profile: &'a str,
}

impl<'a> Origin<'a> {
    /// The first slice of a series, within its frame of reference.
    pub(crate) fn of(source: &Source<'a>) -> Result<Self, ResultError> {
        let series = source.series;
        let first = series.slices.first();
        let first = first.ok_or_else(|| ResultError::Content("the series has no slice".into()))?;
        Ok(Self {
            path: &first.path,
            study_instance_uid: &series.study_instance_uid,
            series_instance_uid: &series.series_instance_uid,
            frame_of_reference_uid: Some(&series.frame_of_reference_uid),
            identity: source.identity,
            models: source.models,
            profile: source.profile,
        })
    }

    /// Any readable instance of a series that came to nothing, so no model took part and no place is meant.
    pub(crate) fn of_instance(instance: &'a Instance, identity: &'a Identity) -> Self {
        Self {
            path: &instance.path,
            study_instance_uid: &instance.study_instance_uid,
            series_instance_uid: &instance.series_instance_uid,
            frame_of_reference_uid: None,
            identity,
            models: &[],
            profile: results::GENERIC,
        }
    }

    /// The same for an object outside of any frame of reference.
    pub(crate) fn nowhere(self) -> Self {
        Self {
            frame_of_reference_uid: None,
            ..self
        }
    }

    /// The SOP Instance UID that an object of a kind has in this job and profile, written or not.
    pub(crate) fn sop_instance_uid(&self, kind: &str) -> Uid {
        self.derived(&results::key(kind, self.profile), "instance")
    }

    /// The Series Instance UID, likewise.
    pub(crate) fn series_instance_uid_of(&self, kind: &str) -> Uid {
        self.derived(&results::key(kind, self.profile), "series")
    }

    fn derived(&self, kind: &str, role: &str) -> Uid {
        Uid::derived(&[common::PRODUCT, &self.identity.uid_seed, kind, role])
    }

    /// This version with these models.
    pub(crate) fn device_uid(&self) -> Uid {
        let mut parts = vec![common::PRODUCT, common::VERSION];
        parts.extend(self.models.iter().map(|m| m.sha256.as_str()));
        Uid::derived(&parts)
    }
}
