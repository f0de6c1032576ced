//! The people of a collection: names that are unique in whatever letter case.

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::collection::Collection;
use super::failure::Failure;
use crate::gallery::{Expected, Metadata, SubjectChange};
use crate::http::body::{self, Share};
use crate::http::extract::Path;
use crate::http::form;
use crate::http::problem::{Code, Problem};
use crate::http::state::AppState;
use crate::service::Enrolment;
use crate::service::requests::NewSubject;
use crate::types::{Name, SubjectId, bytes_without_mark};

/// Most characters of a name that is given by JSON.
const LONGEST_NAME: usize = 50;

/// Bytes that a number of a JSON list takes at most, when it is read, for each byte of its text.
const READ_BYTES: usize = 4;

/// A name that is sent, and one that is answered.
#[derive(Serialize, Deserialize)]
pub struct Named {
    #[serde(default)]
    pub subject: Option<String>,
}

#[derive(Serialize)]
pub struct All {
    subjects: Vec<String>,
}

#[derive(Serialize)]
pub struct Updated {
    updated: bool,
}

#[derive(Serialize)]
pub struct Count {
    pub deleted: u64,
}

/// Extracts a small JSON body; members that nobody knows are passed over.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<AppState> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Failure> {
        let kind = form::media_type(request.headers());
        if kind != "application/json" {
            return Err(form::unsupported_media_type(&kind, "application/json").into());
        }
        let (time, limit, budget) = (state.request_timeout, state.max_body_bytes, state.body_budget.clone());
        body::refuse_declared_length(request.headers().get(header::CONTENT_LENGTH), limit as u64)?;
        let share = Share::default();
        let body = body::limited(request.into_body(), limit as u64);
        let reading = body::read_all(body::counted(body, budget.clone(), share.clone()));
        let bytes = tokio::time::timeout(time, reading).await.map_err(|_| form::too_slow(time))??;
        let length = bytes.len();
        share.grow_to(&budget, READ_BYTES * length)?;
        let read = move || {
            let read = serde_json::from_slice(bytes_without_mark(&bytes));
            read.map_err(|error| Problem::new(Code::MalformedJson, format!("the body cannot be read: {error}")))
        };
        let read = form::aside(length, read).await;
        drop(share);
        Ok(Self(read?))
    }
}

/// GET /recognition/subjects
pub async fn list(enrolment: Enrolment, Collection(gallery): Collection) -> Result<Json<All>, Failure> {
    Ok(Json(All { subjects: enrolment.subject_names(&gallery).await? }))
}

/// POST /recognition/subjects
pub async fn add(
    enrolment: Enrolment,
    Collection(gallery): Collection,
    JsonBody(named): JsonBody<Named>,
) -> Result<(StatusCode, Json<Named>), Failure> {
    let name = new_name(named)?;
    if enrolment.find_subject_in_any_case(&gallery, name.as_str()).await?.is_some() {
        return Err(Failure::subject_exists(name.as_str()));
    }
    let new = NewSubject { gallery, name, metadata: Metadata::default(), expires_at: None };
    let created = enrolment.create_subject(new, None).await?.answer.answer;
    Ok((StatusCode::CREATED, Json(Named { subject: Some(created.name) })))
}

/// PUT /recognition/subjects/{subject}: renames somebody, or gives their examples to whoever has the name already.
pub async fn rename(
    enrolment: Enrolment,
    Collection(gallery): Collection,
    Path(current): Path<String>,
    JsonBody(named): JsonBody<Named>,
) -> Result<Json<Updated>, Failure> {
    let name = new_name(named)?;
    if name.as_str() == current {
        return Ok(Json(Updated { updated: false }));
    }
    let (from, _) = find(&enrolment, &gallery, &current).await?;
    match enrolment.find_subject_in_any_case(&gallery, name.as_str()).await? {
        Some((into, _)) if into != from => {
            let (into, from) = (into.to_string(), from.to_string());
            enrolment.merge_subjects(&gallery, (&into, &from), &Expected::Any).await?;
        }
        _ => {
            let change = SubjectChange { name: Some(name), ..SubjectChange::default() };
            enrolment.change_subject(&gallery, &from.to_string(), &change, &Expected::Any).await?;
        }
    }
    Ok(Json(Updated { updated: true }))
}

/// DELETE /recognition/subjects/{subject}
pub async fn remove(
    enrolment: Enrolment,
    Collection(gallery): Collection,
    Path(name): Path<String>,
) -> Result<Json<Named>, Failure> {
    let (id, stored) = find(&enrolment, &gallery, &name).await?;
    enrolment.delete_subject(&gallery, &id.to_string(), &Expected::Any).await?;
    Ok(Json(Named { subject: Some(stored) }))
}

/// DELETE /recognition/subjects
pub async fn remove_all(enrolment: Enrolment, Collection(gallery): Collection) -> Result<Json<Count>, Failure> {
    Ok(Json(Count { deleted: enrolment.empty_gallery(&gallery).await?.subjects }))
}

async fn find(enrolment: &Enrolment, gallery: &Name, name: &str) -> Result<(SubjectId, String), Failure> {
    let found = enrolment.find_subject_in_any_case(gallery, name.trim()).await?;
    found.ok_or_else(|| Failure::unknown_subject(name))
}

/// A name as those are that come by JSON.
fn new_name(Named { subject }: Named) -> Result<Name, Failure> {
    let text = subject.ok_or_else(|| Failure::missing_field("subject"))?;
    let length = text.chars().count();
    if text.trim().is_empty() || length > LONGEST_NAME {
        let reason = format_args!("a name of 1 to {LONGEST_NAME} characters is expected, this one has {length}");
        return Err(Failure::out_of_range("subject", reason));
    }
    if text.contains([';', '/', '\\']) {
        return Err(Failure::forbidden_character());
    }
    name_of(&text)
}

/// A name, without white space around it.
pub fn name_of(text: &str) -> Result<Name, Failure> {
    Name::try_from(text.trim().to_owned()).map_err(|error| Failure::out_of_range("subject", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::compreface::failure::number;

    fn of(subject: Option<&str>) -> Result<String, u16> {
        let name = new_name(Named { subject: subject.map(str::to_owned) });
        name.map(|name| name.to_string()).map_err(|failure| match failure {
            Failure::Own { number, .. } => number,
            Failure::Native(problem) => panic!("{problem:?}"),
        })
    }

    #[test]
    fn names_by_json_are_short_and_have_no_separators() {
        assert_eq!(of(Some("Ada Lovelace")), Ok("Ada Lovelace".to_owned()));
        assert_eq!(of(Some(" Ada ")), Ok("Ada".to_owned()));
        assert_eq!(of(Some(&"é".repeat(50))), Ok("é".repeat(50)));
        assert_eq!(of(None), Err(number::FIELD_MISSING));
        for text in ["", "  ", "\u{a0}", &"x".repeat(51), "a\0"] {
            assert_eq!(of(Some(text)), Err(number::OUT_OF_RANGE), "{text:?}");
        }
        for text in ["a;b", "a/b", "a\\b"] {
            assert_eq!(of(Some(text)), Err(number::FORBIDDEN_CHARACTER), "{text}");
        }
    }
}
