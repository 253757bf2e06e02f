//! The paths of PS3.18 chapter 10, and what each one asks for.

use crate::dicom::uid::Uid;
use crate::query::Level;
use crate::results::dataset::DataSet;
use crate::web::{Refusal, Web, retrieve, search, store};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use dicom::dictionary_std::tags;
use std::sync::Arc;

/// What a path names: a study, series or instance, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::web) struct Target {
    pub study: Option<Uid>,
    pub series: Option<Uid>,
    pub instance: Option<Uid>,
}

impl Target {
    /// Its unique keys.
    pub fn keys(&self) -> DataSet {
        let mut keys = DataSet::default();
        let uids = [
            (tags::STUDY_INSTANCE_UID, &self.study),
            (tags::SERIES_INSTANCE_UID, &self.series),
            (tags::SOP_INSTANCE_UID, &self.instance),
        ];
        for (tag, uid) in uids {
            if let Some(uid) = uid {
                keys.uid(tag, uid);
            }
        }
        keys
    }

    /// The level of what is named.
    pub fn level(&self) -> Level {
        match (&self.series, &self.instance) {
            (_, Some(_)) => Level::Image,
            (Some(_), None) => Level::Series,
            (None, None) => Level::Study,
        }
    }
}

/// What is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::web) enum Action {
    /// QIDO-RS: what there is of this level below the target.
    Search(Level),
    /// WADO-RS: the objects themselves.
    Retrieve,
    Metadata,
}

pub(in crate::web) async fn answer(web: &Arc<Web>, request: Request) -> Result<Response, Refusal> {
    let path = request.uri().path().trim_start_matches("/dicom-web/").to_owned();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::POST => {
            let study = match segments.as_slice() {
                ["studies"] => None,
                ["studies", study] => Some(uid(study)?),
                _ => return Err(unknown()),
            };
            return store::store(web, study, request).await;
        }
        _ => return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "GET, or POST to /studies")),
    }
    let (target, action) = parse(&segments)?;
    let base = base(request.headers());
    match action {
        Action::Search(level) => {
            search::search(web, &target, level, request.uri().query().unwrap_or_default(), &base).await
        }
        Action::Retrieve => retrieve::objects(web, &target).await,
        Action::Metadata => retrieve::metadata(web, &target, &base).await,
    }
}

fn unknown() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "no such resource; studies, series, instances and their metadata are here",
    )
}

fn uid(text: &str) -> Result<Uid, Refusal> {
    Uid::parse(text).map_err(|bad| Refusal::new(StatusCode::BAD_REQUEST, format!("not a UID: {bad}")))
}

/// The path behind `/dicom-web/`.
pub(in crate::web) fn parse(segments: &[&str]) -> Result<(Target, Action), Refusal> {
    let target = |uids: &[&str]| -> Result<Target, Refusal> {
        let mut uids = uids.iter().map(|text| uid(text));
        Ok(Target {
            study: uids.next().transpose()?,
            series: uids.next().transpose()?,
            instance: uids.next().transpose()?,
        })
    };
    let (uids, action): (Vec<&str>, Action) = match *segments {
        ["studies"] => (vec![], Action::Search(Level::Study)),
        ["series"] => (vec![], Action::Search(Level::Series)),
        ["instances"] => (vec![], Action::Search(Level::Image)),
        ["studies", study] => (vec![study], Action::Retrieve),
        ["studies", study, "metadata"] => (vec![study], Action::Metadata),
        ["studies", study, "series"] => (vec![study], Action::Search(Level::Series)),
        ["studies", study, "instances"] => (vec![study], Action::Search(Level::Image)),
        ["studies", study, "series", series] => (vec![study, series], Action::Retrieve),
        ["studies", study, "series", series, "metadata"] => (vec![study, series], Action::Metadata),
        ["studies", study, "series", series, "instances"] => (vec![study, series], Action::Search(Level::Image)),
        ["studies", study, "series", series, "instances", instance] => {
            (vec![study, series, instance], Action::Retrieve)
        }
        ["studies", study, "series", series, "instances", instance, "metadata"] => {
            (vec![study, series, instance], Action::Metadata)
        }
        _ => return Err(unknown()),
    };
    Ok((target(&uids)?, action))
}

/// Where the caller reached us, for Retrieve URLs.
fn base(headers: &HeaderMap) -> String {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or("localhost");
    format!("http://{host}/dicom-web")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_the_standard_says_and_nothing_else() {
        let of = |path: &str| parse(&path.split('/').collect::<Vec<_>>());
        let (target, action) = of("studies/1.2/series/1.3/instances/1.4/metadata").unwrap();
        assert_eq!((target.level(), action), (Level::Image, Action::Metadata));
        assert_eq!(target.instance.unwrap().as_str(), "1.4");
        assert_eq!(of("studies/1.2/series").unwrap().1, Action::Search(Level::Series));
        assert_eq!(of("studies/1.2").unwrap().1, Action::Retrieve);
        assert_eq!(of("instances").unwrap().0, Target::default());
        assert_eq!(of("studies/../series").unwrap_err().status, StatusCode::BAD_REQUEST);
        assert_eq!(of("studies/1.2/frames/1").unwrap_err().status, StatusCode::NOT_FOUND);
    }
}
