//! STOW-RS (PS3.18 10.5): Part 10 files in a multipart body, each through the same intake as an object from the network.

use crate::dicom::header::Instance;
use crate::dicom::status::Status;
use crate::dicom::uid::Uid;
use crate::intake::{AssociationId, IntakeError};
use crate::web::{Refusal, Web, blocking};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::{Value as Json, json};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Set in the association ids of uploads, so that they never meet those of the network or of drop folders.
const UPLOAD_BIT: u64 = 1 << 62;
/// Parts of one request.
const MOST_PARTS: usize = 10_000;

/// What became of the parts.
#[derive(Default)]
struct Tally {
    stored: Vec<(String, String)>,
    /// SOP class, SOP instance, status, reason.
    failed: Vec<(String, String, Status, String)>,
}

pub(in crate::web) async fn store(web: &Arc<Web>, study: Option<Uid>, request: Request) -> Result<Response, Refusal> {
    let boundary = boundary(request.headers())?;
    let association = AssociationId(UPLOAD_BIT | web.uploads.fetch_add(1, Ordering::Relaxed));
    let intake = web.archive.intake.clone();
    intake.association_opened(association);
    let taken = take_parts(web, study.as_ref(), request, boundary, association).await;
    // However it ended, what was taken is synced before anybody hears of it.
    let closed = blocking(move || intake.association_closed(association)).await?;
    let tally = taken?;
    closed.map_err(Refusal::failed)?;
    Ok(answer(&tally))
}

fn boundary(headers: &HeaderMap) -> Result<String, Refusal> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let lower = kind.to_ascii_lowercase();
    if !lower.starts_with("multipart/related") || !lower.contains("application/dicom") || lower.contains("dicom+") {
        let why = "Content-Type must be multipart/related; type=\"application/dicom\"";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let place = lower.find("boundary=").map(|at| &kind[at + "boundary=".len()..]);
    let value = place.map(|rest| match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        None => rest.split([';', ' ']).next().unwrap_or_default(),
    });
    match value {
        Some(value) if (1..=70).contains(&value.len()) => Ok(value.to_owned()),
        _ => Err(Refusal::new(StatusCode::BAD_REQUEST, "Content-Type has no boundary")),
    }
}

async fn take_parts(
    web: &Arc<Web>,
    study: Option<&Uid>,
    request: Request,
    boundary: String,
    association: AssociationId,
) -> Result<Tally, Refusal> {
    let broken = |error: multer::Error| Refusal::new(StatusCode::BAD_REQUEST, format!("not a multipart body: {error}"));
    let mut parts = multer::Multipart::new(request.into_body().into_data_stream(), boundary);
    let mut tally = Tally::default();
    while let Some(mut part) = parts.next_field().await.map_err(broken)? {
        if tally.stored.len() + tally.failed.len() == MOST_PARTS {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("more than {MOST_PARTS} parts"),
            ));
        }
        let incoming = web.archive.store.dir().join("incoming");
        let mut file = tempfile::NamedTempFile::new_in(incoming).map_err(Refusal::failed)?;
        let mut length = 0u64;
        while let Some(chunk) = part.chunk().await.map_err(broken)? {
            length += chunk.len() as u64;
            if length > web.max_object_bytes {
                return Err(Refusal::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "a part is longer than dicom.max_object_mb",
                ));
            }
            file = blocking(move || file.write_all(&chunk).map(|()| file))
                .await?
                .map_err(Refusal::failed)?;
        }
        let (web, study) = (web.clone(), study.cloned());
        let outcome = blocking(move || accept(&web, file.path(), study.as_ref(), association)).await?;
        match outcome {
            Ok(taken) => tally.stored.push(taken),
            Err(failure) => tally.failed.push(failure),
        }
    }
    Ok(tally)
}

type Failure = (String, String, Status, String);

fn accept(
    web: &Web,
    path: &Path,
    study: Option<&Uid>,
    association: AssociationId,
) -> Result<(String, String), Failure> {
    let header = Instance::read(path);
    let (class, instance) = match &header {
        Ok(header) => (header.sop_class_uid.to_string(), header.sop_instance_uid.to_string()),
        Err(_) => Default::default(),
    };
    let checked = match (header, study) {
        (Err(error), _) => Err(IntakeError::CannotUnderstand(error.to_string())),
        (Ok(header), Some(study)) if header.study_instance_uid != *study => Err(IntakeError::Mismatch(
            "it belongs to another study than the one in the path".into(),
        )),
        (Ok(_), _) => web.archive.intake.accept_file(path, association),
    };
    match checked {
        Ok(_accepted) => Ok((class, instance)),
        Err(error) => {
            tracing::warn!(status = %error.status(), cause = %error, "refused an upload");
            Err((class, instance, error.status(), error.to_string()))
        }
    }
}

/// PS3.18 table 10.5.3-1: 200 when all are stored, 202 when some are, 409 when none is.
fn answer(tally: &Tally) -> Response {
    let reference = |class: &str, instance: &str| {
        json!({
            "00081150": { "vr": "UI", "Value": [class] },
            "00081155": { "vr": "UI", "Value": [instance] },
        })
    };
    let mut body = json!({});
    if !tally.stored.is_empty() {
        let items: Vec<Json> = tally
            .stored
            .iter()
            .map(|(class, instance)| reference(class, instance))
            .collect();
        body["00081199"] = json!({ "vr": "SQ", "Value": items });
    }
    if !tally.failed.is_empty() {
        let item = |(class, instance, status, why): &Failure| {
            let mut item = reference(class, instance);
            item["00081197"] = json!({ "vr": "US", "Value": [status.0] });
            item["00000902"] = json!({ "vr": "LO", "Value": [why.chars().take(64).collect::<String>()] });
            item
        };
        let items: Vec<Json> = tally.failed.iter().map(item).collect();
        body["00081198"] = json!({ "vr": "SQ", "Value": items });
    }
    let mut answer = Response::new(Body::from(body.to_string()));
    *answer.status_mut() = match (tally.stored.is_empty(), tally.failed.is_empty()) {
        (_, true) => StatusCode::OK,
        (false, false) => StatusCode::ACCEPTED,
        (true, false) => StatusCode::CONFLICT,
    };
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, "application/dicom+json".parse().expect("ASCII"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundary_is_found_quoted_or_not_and_other_bodies_are_refused() {
        let of = |kind: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            boundary(&headers)
        };
        assert_eq!(
            of("multipart/related; type=\"application/dicom\"; boundary=aB1").unwrap(),
            "aB1"
        );
        assert_eq!(
            of("Multipart/Related; boundary=\"x y\"; type=application/dicom").unwrap(),
            "x y"
        );
        let json = of("multipart/related; type=\"application/dicom+json\"; boundary=a").unwrap_err();
        assert_eq!(json.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert!(of("multipart/related; type=\"application/dicom\"").is_err());
    }
}
