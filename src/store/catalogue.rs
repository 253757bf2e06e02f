//! What lies here, as queries see it: studies, their series, the objects of a series.

use crate::dicom::uid::Uid;
use crate::job::{JobId, SeriesKey};
use crate::store::{Change, Store, StoreError};
use rusqlite::types::Value;
use std::path::{Path, PathBuf};

/// Something the catalogue has not read yet.
#[derive(Clone, Debug)]
pub struct Unlisted {
    /// Its study, and its series unless it is a result.
    pub study_instance_uid: Uid,
    pub origin: UnlistedOrigin,
    /// An object of it.
    pub path: PathBuf,
}

#[derive(Clone, Debug)]
pub enum UnlistedOrigin {
    Received { series_instance_uid: Uid },
    Result { job: JobId, kind: String },
}

/// A series as it is listed.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub patient_id: String,
    pub accession_number: String,
    pub study_date: String,
    pub modality: String,
    /// Explicit VR Little Endian.
    pub attributes: Vec<u8>,
}

/// A listed series with what it holds now.
#[derive(Clone, Debug)]
pub struct ListedSeries {
    pub series: SeriesKey,
    pub modality: String,
    pub attributes: Vec<u8>,
    /// SOP classes with the number of objects of each; never empty.
    pub objects: Vec<(Uid, u32)>,
}

/// An object that lies here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    pub series: SeriesKey,
    pub sop_class_uid: Uid,
    pub sop_instance_uid: Uid,
    pub transfer_syntax_uid: Uid,
    pub path: PathBuf,
}

/// Conditions that narrow a look at the catalogue; `None` and empty lists leave it as wide as it is. What is left is compared
/// with the whole query afterwards.
#[derive(Clone, Debug, Default)]
pub struct Narrowing {
    pub patient_id: Option<String>,
    pub accession_number: Option<String>,
    /// First and last, YYYYMMDD.
    pub study_dates: [Option<String>; 2],
    pub study_uids: Vec<String>,
    pub series_uids: Vec<String>,
}

/// Studies, series and objects of a patient.
pub type PatientCounts = [u32; 3];

impl Store {
    /// Series and results that are not listed, at most `limit` of each.
    pub fn unlisted(&self, limit: u32) -> Result<Vec<Unlisted>, StoreError> {
        self.read(|change| {
            let series = change.rows(
                "SELECT j.study_uid, j.series_uid,
                        (SELECT i.sop_instance_uid FROM instances i
                          WHERE i.study_uid = j.study_uid AND i.series_uid = j.series_uid ORDER BY i.id LIMIT 1) AS first
                   FROM jobs j LEFT JOIN catalogue c ON c.study_uid = j.study_uid AND c.series_uid = j.series_uid
                  WHERE c.series_uid IS NULL AND j.revision = 1 AND first IS NOT NULL LIMIT ?1",
                [limit],
                |row| Ok([row.get::<_, String>(0)?, row.get(1)?, row.get(2)?]),
            )?;
            let received = |[study, series, first]: [String; 3]| {
                let key = SeriesKey {
                    study_instance_uid: change.uid(&study)?,
                    series_instance_uid: change.uid(&series)?,
                };
                Ok(Unlisted {
                    path: self.instance_path(&key, &change.uid(&first)?),
                    study_instance_uid: key.study_instance_uid,
                    origin: UnlistedOrigin::Received {
                        series_instance_uid: key.series_instance_uid,
                    },
                })
            };
            let mut unlisted: Vec<Unlisted> = series.into_iter().map(received).collect::<Result<_, StoreError>>()?;
            let results = change.rows(
                "SELECT j.study_uid, r.job, r.kind, r.path FROM results r JOIN jobs j ON j.id = r.job
                  WHERE r.series_uid IS NULL ORDER BY r.job, r.kind LIMIT ?1",
                [limit],
                |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        JobId(row.get(1)?),
                        row.get::<_, String>(2)?,
                        row.get::<_, String>(3)?,
                    ))
                },
            )?;
            for (study, job, kind, path) in results {
                unlisted.push(Unlisted {
                    study_instance_uid: change.uid(&study)?,
                    origin: UnlistedOrigin::Result { job, kind },
                    path: Path::join(self.dir(), path),
                });
            }
            Ok(unlisted)
        })
    }

    /// Lists what was unlisted. A series that is listed already keeps its row. One transaction.
    pub fn list(&self, read: &[(Unlisted, Uid, Listing)]) -> Result<(), StoreError> {
        self.write(|change| {
            for (what, series, listing) in read {
                if let UnlistedOrigin::Result { job, kind } = &what.origin {
                    let sql = "UPDATE results SET series_uid = ?3 WHERE job = ?1 AND kind = ?2";
                    change.run(sql, (job.0, kind, series.as_str()))?;
                }
                change.run(
                    "INSERT OR IGNORE INTO catalogue (study_uid, series_uid, patient_id, accession_number, study_date, modality, attributes)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    (
                        what.study_instance_uid.as_str(),
                        series.as_str(),
                        &listing.patient_id,
                        &listing.accession_number,
                        &listing.study_date,
                        &listing.modality,
                        &listing.attributes,
                    ),
                )?;
            }
            Ok(())
        })
    }

    /// Study Instance UIDs behind `after`, in order, at most `limit`.
    pub fn listed_studies(&self, after: &str, narrowing: &Narrowing, limit: u32) -> Result<Vec<String>, StoreError> {
        let (condition, mut parameters) = narrowing.sql();
        parameters.push(Value::Text(after.to_owned()));
        parameters.push(Value::Integer(limit.into()));
        let sql = format!(
            "SELECT DISTINCT study_uid FROM catalogue WHERE {condition} study_uid > ? ORDER BY study_uid LIMIT ?"
        );
        self.read(|change| change.rows(&sql, rusqlite::params_from_iter(parameters), |row| row.get(0)))
    }

    /// The series of a study that hold anything, those received first in front.
    pub fn listed_series(&self, study_instance_uid: &str) -> Result<Vec<ListedSeries>, StoreError> {
        self.read(|change| {
            let sql = "SELECT series_uid, modality, attributes FROM catalogue WHERE study_uid = ?1 ORDER BY rowid";
            let rows = change.rows(sql, [study_instance_uid], |row| {
                Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?))
            })?;
            let mut found = Vec::new();
            for (series, modality, attributes) in rows {
                let objects = change.rows(
                    "SELECT sop_class_uid, count(*) FROM holdings WHERE study_uid = ?1 AND series_uid = ?2 GROUP BY 1 ORDER BY 1",
                    (study_instance_uid, &series),
                    |row| Ok((row.get::<_, String>(0)?, row.get(1)?)),
                )?;
                if objects.is_empty() {
                    continue;
                }
                let class = |(class, count): (String, u32)| Ok((change.uid(&class)?, count));
                found.push(ListedSeries {
                    series: SeriesKey {
                        study_instance_uid: change.uid(study_instance_uid)?,
                        series_instance_uid: change.uid(&series)?,
                    },
                    modality,
                    attributes,
                    objects: objects.into_iter().map(class).collect::<Result<_, StoreError>>()?,
                });
            }
            Ok(found)
        })
    }

    /// The objects of a series.
    pub fn holdings(&self, series: &SeriesKey) -> Result<Vec<Holding>, StoreError> {
        let key = (series.study_instance_uid.as_str(), series.series_instance_uid.as_str());
        self.read(|change| change.holdings("study_uid = ?1 AND series_uid = ?2", key))
    }

    /// The objects with a SOP Instance UID: one, unless broken senders used it in several series.
    pub fn holdings_of(&self, sop_instance_uid: &str) -> Result<Vec<Holding>, StoreError> {
        self.read(|change| change.holdings("sop_instance_uid = ?1", [sop_instance_uid]))
    }

    pub fn patient_counts(&self, patient_id: &str) -> Result<PatientCounts, StoreError> {
        self.read(|change| {
            let sql = "SELECT count(DISTINCT study_uid), count(*),
                              coalesce(sum((SELECT count(*) FROM holdings h
                                             WHERE h.study_uid = c.study_uid AND h.series_uid = c.series_uid)), 0)
                         FROM catalogue c WHERE patient_id = ?1";
            let counts = change.first(sql, [patient_id], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))?;
            Ok(counts.unwrap_or_default())
        })
    }
}

impl Narrowing {
    /// Conditions that each end in AND, and their values.
    fn sql(&self) -> (String, Vec<Value>) {
        let (mut sql, mut values) = (String::new(), Vec::new());
        let [first, last] = &self.study_dates;
        let single = [
            ("patient_id = ? AND ", &self.patient_id),
            ("accession_number = ? AND ", &self.accession_number),
            ("study_date >= ? AND ", first),
            ("study_date <= ? AND ", last),
        ];
        for (condition, value) in single {
            if let Some(value) = value {
                sql += condition;
                values.push(Value::Text(value.clone()));
            }
        }
        for (column, uids) in [("study_uid", &self.study_uids), ("series_uid", &self.series_uids)] {
            if !uids.is_empty() {
                // One parameter however many there are: their number is the peer's to choose.
                sql += &format!("{column} IN (SELECT value FROM json_each(?)) AND ");
                values.push(Value::Text(serde_json::Value::from(uids.clone()).to_string()));
            }
        }
        (sql, values)
    }
}

impl Change<'_> {
    fn holdings(&self, condition: &str, parameters: impl rusqlite::Params) -> Result<Vec<Holding>, StoreError> {
        let sql = format!(
            "SELECT study_uid, series_uid, sop_class_uid, sop_instance_uid, transfer_syntax_uid, path FROM holdings WHERE {condition}"
        );
        let rows = self.rows(&sql, parameters, |row| {
            let uids: [String; 5] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
            Ok((uids, row.get::<_, Option<String>>(5)?))
        })?;
        let holding = |([study, series, class, instance, syntax], path): ([String; 5], Option<String>)| {
            let series = SeriesKey {
                study_instance_uid: self.uid(&study)?,
                series_instance_uid: self.uid(&series)?,
            };
            let sop_instance_uid = self.uid(&instance)?;
            Ok(Holding {
                path: match path {
                    Some(path) => Path::join(self.store.dir(), path),
                    None => self.store.instance_path(&series, &sop_instance_uid),
                },
                series,
                sop_class_uid: self.uid(&class)?,
                sop_instance_uid,
                transfer_syntax_uid: self.uid(&syntax)?,
            })
        };
        rows.into_iter().map(holding).collect()
    }
}
