//! QIDO-RS (PS3.18 10.6).

use crate::archive::Asking;
use crate::query::{self, Identifier, Level};
use crate::results::dataset::{DataSet, Value, standard_vr};
use crate::web::dicomweb::Target;
use crate::web::{Refusal, Web, blocking, json};
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::Response;
use dicom::core::Tag;
use dicom::core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom::dictionary_std::{StandardDataDictionary, tags};
use serde_json::{Value as Json, json};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Answers of one request; more are to be had with `offset`.
const MOST: usize = 1000;

/// What is returned without being asked for (PS3.18 tables 10.6.3-3 to 10.6.3-5).
const ALWAYS: &[(Level, &[Tag])] = &[
    (
        Level::Study,
        &[
            tags::STUDY_DATE,
            tags::STUDY_TIME,
            tags::ACCESSION_NUMBER,
            tags::INSTANCE_AVAILABILITY,
            tags::MODALITIES_IN_STUDY,
            tags::REFERRING_PHYSICIAN_NAME,
            tags::PATIENT_NAME,
            tags::PATIENT_ID,
            tags::PATIENT_BIRTH_DATE,
            tags::PATIENT_SEX,
            tags::STUDY_INSTANCE_UID,
            tags::STUDY_ID,
            tags::STUDY_DESCRIPTION,
            tags::NUMBER_OF_STUDY_RELATED_SERIES,
            tags::NUMBER_OF_STUDY_RELATED_INSTANCES,
        ],
    ),
    (
        Level::Series,
        &[
            tags::MODALITY,
            tags::SERIES_DESCRIPTION,
            tags::SERIES_INSTANCE_UID,
            tags::SERIES_NUMBER,
            tags::NUMBER_OF_SERIES_RELATED_INSTANCES,
            tags::PERFORMED_PROCEDURE_STEP_START_DATE,
            tags::PERFORMED_PROCEDURE_STEP_START_TIME,
        ],
    ),
    (
        Level::Image,
        &[
            tags::SOP_CLASS_UID,
            tags::SOP_INSTANCE_UID,
            tags::INSTANCE_NUMBER,
            tags::ROWS,
            tags::COLUMNS,
            tags::BITS_ALLOCATED,
            tags::NUMBER_OF_FRAMES,
        ],
    ),
];

/// A query string, understood.
#[derive(Debug, Default)]
struct Asked {
    keys: DataSet,
    limit: usize,
    offset: usize,
}

pub(in crate::web) async fn search(
    web: &Arc<Web>,
    target: &Target,
    level: Level,
    query: &str,
    base: &str,
) -> Result<Response, Refusal> {
    let asked = understand(target, level, query)?;
    let identifier = Identifier::of(level, &asked.keys);
    let (web, base) = (web.clone(), base.to_owned());
    let found = blocking(move || {
        let asking = Asking {
            retrieve_ae_title: web.ae_title.clone(),
        };
        let (mut rows, mut count) = (Vec::new(), 0);
        let searched = web.archive.find(&identifier, &asking, |answer| {
            count += 1;
            if count <= asked.offset {
                return ControlFlow::Continue(());
            }
            if rows.len() == asked.limit {
                return ControlFlow::Break(());
            }
            rows.push(row(&answer.data, level, &base));
            ControlFlow::Continue(())
        });
        searched.map(|()| (rows, count > asked.offset + asked.limit))
    });
    let (rows, more) = found.await?.map_err(Refusal::failed)?;
    if rows.is_empty() {
        return Ok(empty());
    }
    let mut answer = Response::new(Body::from(Json::Array(rows).to_string()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, "application/dicom+json".parse().expect("ASCII"));
    if more {
        let text = "299 medlsamd \"there are more results; ask again with offset\"";
        headers.insert(header::WARNING, text.parse().expect("ASCII"));
    }
    Ok(answer)
}

/// Nothing fits.
fn empty() -> Response {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

fn understand(target: &Target, level: Level, query: &str) -> Result<Asked, Refusal> {
    let wrong = |what: String| Refusal::new(StatusCode::BAD_REQUEST, what);
    let named = |field: &str| attribute(field).ok_or_else(|| wrong(format!("no attribute is called {field:?}")));
    let mut asked = Asked {
        keys: DataSet::default(),
        limit: MOST,
        offset: 0,
    };
    asked.keys.insert(
        tags::SPECIFIC_CHARACTER_SET,
        json::text_value(tags::SPECIFIC_CHARACTER_SET, "ISO_IR 192"),
    );
    for (_, always) in ALWAYS.iter().filter(|(of, _)| *of <= level) {
        always.iter().for_each(|tag| want(&mut asked.keys, *tag));
    }
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let number = || {
            value
                .parse::<usize>()
                .map_err(|_| wrong(format!("{name} is not a number")))
        };
        match &*name {
            "limit" => asked.limit = number()?.min(MOST),
            "offset" => asked.offset = number()?,
            "fuzzymatching" => {}
            "includefield" if value == "all" => {
                let known = query::keys().filter(|(_, of)| *of <= level);
                known.for_each(|(tag, _)| want(&mut asked.keys, tag));
            }
            "includefield" => {
                for field in value.split(',') {
                    want(&mut asked.keys, named(field)?);
                }
            }
            field => {
                let tag = named(field)?;
                // Lists of UIDs are separated by commas here (PS3.18 8.3.4.1).
                let value = match standard_vr(tag) {
                    dicom::core::VR::UI => value.replace(',', "\\"),
                    _ => value.into_owned(),
                };
                asked.keys.insert(tag, json::text_value(tag, &value));
            }
        }
    }
    for (tag, value) in target.keys().iter() {
        asked.keys.insert(tag, value.clone());
    }
    Ok(asked)
}

/// Asks for an attribute, whatever its value, unless it is asked for already.
fn want(keys: &mut DataSet, tag: Tag) {
    if keys.get(tag).is_none() {
        keys.insert(tag, Value::Bytes(standard_vr(tag), Vec::new()));
    }
}

/// By keyword, or as eight hexadecimal digits.
fn attribute(name: &str) -> Option<Tag> {
    let by_digits = || {
        let number = u32::from_str_radix(name, 16).ok().filter(|_| name.len() == 8)?;
        Some(Tag((number >> 16) as u16, number as u16))
    };
    by_digits().or_else(|| StandardDataDictionary.by_name(name).map(|entry| entry.tag()))
}

fn row(data: &DataSet, level: Level, base: &str) -> Json {
    let uid = |tag| {
        let bytes = data.bytes(tag).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let mut url = format!("{base}/studies/{}", uid(tags::STUDY_INSTANCE_UID));
    if level >= Level::Series {
        url += &format!("/series/{}", uid(tags::SERIES_INSTANCE_UID));
    }
    if level == Level::Image {
        url += &format!("/instances/{}", uid(tags::SOP_INSTANCE_UID));
    }
    let mut row = json::of(data);
    row["00081190"] = json!({ "vr": "UR", "Value": [url] });
    // The level is a matter of the other protocol.
    row.as_object_mut().map(|row| row.remove("00080052"));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_string_is_keys_by_keyword_or_number_with_limits() {
        let query = "PatientName=M%C3%BC*&00100020=7&StudyInstanceUID=1.2,1.3&limit=99999&offset=5&includefield=PatientAge,00080005";
        let asked = understand(&Target::default(), Level::Study, query).unwrap();
        assert_eq!((asked.limit, asked.offset), (MOST, 5));
        assert_eq!(asked.keys.bytes(tags::PATIENT_NAME).unwrap(), "Mü*".as_bytes());
        assert_eq!(asked.keys.bytes(tags::STUDY_INSTANCE_UID).unwrap(), b"1.2\\1.3");
        assert_eq!(asked.keys.bytes(tags::PATIENT_AGE).unwrap(), b"");
        assert!(asked.keys.get(tags::MODALITY).is_none(), "of a lower level");
        for wrong in ["Soul=1", "limit=many", "includefield=Soul"] {
            let refused = understand(&Target::default(), Level::Study, wrong).unwrap_err();
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{wrong}");
        }
    }
}
