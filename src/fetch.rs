//! Getting series from an archive: C-FIND for what is asked for, C-MOVE of its CT series to the running daemon's own AE title.

use crate::config::{Config, Window};
use crate::dicom::status::Status;
use crate::dicom::uid::Uid;
use crate::job::SeriesKey;
use crate::net;
use crate::net::requests::{self, Found};
use crate::net::scu::{Dial, ScuError};
use crate::query::{Level, text_of};
use crate::results::dataset::DataSet;
use crate::results::header;
use crate::store::Store;
use dicom::core::Tag;
use dicom::dictionary_std::tags;
use jiff::Zoned;
use std::time::Duration;

/// How often the clock is looked at while the window is closed.
const WINDOW_POLL: Duration = Duration::from_secs(20);

/// What somebody wants, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Accession(String),
    /// Of a study or a series.
    Uid(Uid),
}

impl Wish {
    /// A UID when it looks like one. The error is a sentence: wildcards would fetch whatever they match.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match Uid::parse(text) {
            Ok(uid) if text.contains('.') => return Ok(Self::Uid(uid)),
            _ => {}
        }
        let fine = (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        if !fine || text.contains(['*', '?', '\\']) {
            return Err(format!("{text:?} is neither a UID nor an accession number"));
        }
        Ok(Self::Accession(text.to_owned()))
    }
}

impl std::fmt::Display for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Accession(number) => f.write_str(number),
            Self::Uid(uid) => uid.fmt(f),
        }
    }
}

/// The wishes of a list: one a line, `#` begins a comment. The error names the line.
pub fn read_list(text: &str) -> Result<Vec<Wish>, String> {
    let lines = text
        .lines()
        .enumerate()
        .map(|(n, line)| (n + 1, line.split('#').next().unwrap_or_default().trim()))
        .filter(|(_, line)| !line.is_empty());
    lines
        .map(|(number, line)| Wish::parse(line).map_err(|problem| format!("line {number}: {problem}")))
        .collect()
}

/// What became of a series.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fetched {
    pub wish: String,
    /// Empty when nothing was found.
    pub series_uid: String,
    /// Objects that the archive says it sent, or that were here already.
    pub instances: u32,
    pub outcome: Outcome,
    /// Why not, for people.
    pub problem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Sent,
    /// Every instance that the archive counts is in our database.
    AlreadyHere,
    /// The archive knows no CT series by that name.
    NotFound,
    /// Some or all objects did not come.
    Incomplete,
    /// The archive refused.
    Refused,
}

/// What a fetch runs with.
pub struct Fetch<'a> {
    pub config: &'a Config,
    /// The archive.
    pub dial: Dial,
    /// To leave out what is here; `None` before the daemon ever ran.
    pub store: Option<Store>,
    /// Nothing is asked outside of it.
    pub window: Option<Window>,
}

impl Fetch<'_> {
    /// Fetches each wish and tells what became of its series, as it becomes known. Blocking, for as long as the window is closed.
    ///
    /// # Errors
    /// When the archive cannot be reached or turns us away: what is left was not tried.
    pub fn run(&self, wishes: &[Wish], mut tell: impl FnMut(Fetched)) -> Result<(), ScuError> {
        for wish in wishes {
            self.wait_for_window();
            match self.series_of(wish)? {
                Err(problem) => tell(outcome(wish, Outcome::Refused, problem)),
                Ok(series) if series.is_empty() => {
                    tell(outcome(
                        wish,
                        Outcome::NotFound,
                        "the archive has no CT series of it".into(),
                    ));
                }
                Ok(series) => {
                    for (key, count) in series {
                        self.wait_for_window();
                        tell(self.fetch(wish, &key, count)?);
                    }
                }
            }
        }
        Ok(())
    }

    fn wait_for_window(&self) {
        let Some(window) = self.window else { return };
        let mut told = false;
        while !window.is_open(Zoned::now().time()) {
            if !std::mem::replace(&mut told, true) {
                tracing::info!(%window, "waiting for the window");
            }
            std::thread::sleep(WINDOW_POLL);
        }
    }

    fn fetch(&self, wish: &Wish, key: &SeriesKey, count: u32) -> Result<Fetched, ScuError> {
        let series_uid = key.series_instance_uid.to_string();
        let here = self.store.as_ref().and_then(|store| store.known_instances(key).ok());
        let here = here.map_or(0, |known| known.len() as u32);
        if count > 0 && here >= count {
            let fetched = outcome(wish, Outcome::AlreadyHere, String::new());
            return Ok(Fetched {
                series_uid,
                instances: here,
                ..fetched
            });
        }
        let mut identifier = level(Level::Series);
        identifier.uid(tags::STUDY_INSTANCE_UID, &key.study_instance_uid);
        identifier.uid(tags::SERIES_INSTANCE_UID, &key.series_instance_uid);
        let title = self.config.ae_title.as_str();
        let moved = net::blocking(requests::move_to(&self.dial, encoded(&identifier), title))?;
        let progress = moved.progress;
        let instances = u32::from(progress.completed) + u32::from(progress.warning);
        let (became, problem) = match moved.status {
            Status::SUCCESS if count == 0 || instances == 0 || instances >= count => (Outcome::Sent, String::new()),
            Status::SUCCESS => (
                Outcome::Incomplete,
                format!("{instances} of {count} instances were sent"),
            ),
            Status::DESTINATION_UNKNOWN => (
                Outcome::Refused,
                format!("the archive does not know {title}: add our AE title, host and port there"),
            ),
            status if instances > 0 || progress.failed > 0 => {
                let hint = "is the daemon running, and may the archive store to it?";
                (
                    Outcome::Incomplete,
                    format!("{} instances failed ({status}): {hint}", progress.failed),
                )
            }
            status => (Outcome::Refused, format!("C-MOVE answered {status} {}", moved.comment)),
        };
        let fetched = outcome(wish, became, problem);
        Ok(Fetched {
            series_uid,
            instances,
            ..fetched
        })
    }

    /// CT series with the number of their instances, 0 when the archive does not say; inside, why it refused.
    fn series_of(&self, wish: &Wish) -> Result<Result<Vec<(SeriesKey, u32)>, String>, ScuError> {
        let mut identifier = level(Level::Study);
        match wish {
            Wish::Accession(number) => identifier.text(tags::ACCESSION_NUMBER, number.clone()),
            Wish::Uid(uid) => identifier.uid(tags::STUDY_INSTANCE_UID, uid),
        }
        identifier.empty_unless_present(tags::STUDY_INSTANCE_UID);
        let studies = match self.find(&identifier)? {
            Ok(studies) => studies,
            Err(problem) => return Ok(Err(problem)),
        };
        let mut found = Vec::new();
        for study in &studies {
            let mut series = level(Level::Series);
            let Ok(uid) = Uid::parse(&text_of(study, tags::STUDY_INSTANCE_UID)) else {
                continue;
            };
            series.uid(tags::STUDY_INSTANCE_UID, &uid);
            match self.ct_series(series)? {
                Ok(of_study) => found.extend(of_study),
                Err(problem) => return Ok(Err(problem)),
            }
        }
        if let (Wish::Uid(uid), true) = (wish, studies.is_empty()) {
            let mut series = level(Level::Series);
            series.uid(tags::SERIES_INSTANCE_UID, uid);
            // An archive that must be told the study first says so by a refusal; then the UID is simply not found.
            found = self.ct_series(series)?.unwrap_or_default();
        }
        Ok(Ok(found))
    }

    fn ct_series(&self, mut identifier: DataSet) -> Result<Result<Vec<(SeriesKey, u32)>, String>, ScuError> {
        identifier.text(tags::MODALITY, "CT");
        for tag in [
            tags::STUDY_INSTANCE_UID,
            tags::SERIES_INSTANCE_UID,
            tags::NUMBER_OF_SERIES_RELATED_INSTANCES,
        ] {
            identifier.empty_unless_present(tag);
        }
        let rows = match self.find(&identifier)? {
            Ok(rows) => rows,
            Err(problem) => return Ok(Err(problem)),
        };
        // Some archives pass over a key that they do not match on.
        let ct = rows.iter().filter(|row| text_of(row, tags::MODALITY) == "CT");
        let key = |row: &DataSet| {
            let uid = |tag: Tag| Uid::parse(&text_of(row, tag)).ok();
            let key = SeriesKey {
                study_instance_uid: uid(tags::STUDY_INSTANCE_UID)?,
                series_instance_uid: uid(tags::SERIES_INSTANCE_UID)?,
            };
            let count = text_of(row, tags::NUMBER_OF_SERIES_RELATED_INSTANCES)
                .parse()
                .unwrap_or(0);
            Some((key, count))
        };
        Ok(Ok(ct.filter_map(key).collect()))
    }

    fn find(&self, identifier: &DataSet) -> Result<Result<Vec<DataSet>, String>, ScuError> {
        let Found { status, comment, rows } = net::blocking(requests::find(&self.dial, encoded(identifier)))?;
        if status != Status::SUCCESS {
            return Ok(Err(format!("C-FIND answered {status} {comment}").trim_end().to_owned()));
        }
        let read = |(data, encoding): &(Vec<u8>, _)| header::all(data, *encoding);
        let rows: Result<Vec<DataSet>, _> = rows.iter().map(read).collect();
        Ok(rows.map_err(|error| format!("an answer to C-FIND cannot be read: {error}")))
    }
}

fn outcome(wish: &Wish, outcome: Outcome, problem: String) -> Fetched {
    Fetched {
        wish: wish.to_string(),
        series_uid: String::new(),
        instances: 0,
        outcome,
        problem,
    }
}

fn level(level: Level) -> DataSet {
    let mut identifier = DataSet::default();
    identifier.text(tags::QUERY_RETRIEVE_LEVEL, level.as_str());
    identifier
}

fn encoded(identifier: &DataSet) -> Vec<u8> {
    let mut out = Vec::new();
    identifier.encode(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_told_apart_and_wildcards_are_none() {
        assert_eq!(Wish::parse(" 1.2.3 "), Ok(Wish::Uid(Uid::parse("1.2.3").unwrap())));
        for number in ["20260101", "A-77/2"] {
            assert_eq!(Wish::parse(number), Ok(Wish::Accession(number.into())));
        }
        for bad in ["", "*", "A?", "A\\B", "an accession number too long"] {
            assert!(Wish::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_has_comments_and_names_the_bad_line() {
        let text = "# tonight\nA1\n\n1.2.3   # the study\n";
        assert_eq!(read_list(text).unwrap().len(), 2);
        assert!(read_list("A1\nB*\n").unwrap_err().starts_with("line 2: "));
    }
}
