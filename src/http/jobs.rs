//! /admin/jobs: long tasks.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Serialize;
use serde_json::Value;

use super::extract::Path;
use super::form::{Fields, invalid};
use super::headers::NOT_KEPT;
use super::problem::Problem;
use crate::jobs::JobEvent;
use crate::service::answers::{Job, Page};
use crate::service::requests::ListRequest;
use crate::service::{Deleted, Upkeep};
use crate::types::JobId;

/// How often a silent stream says that it is alive, so that no proxy takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// List jobs
#[utoipa::path(
    get, path = "/admin/jobs", tag = "admin", request_body = ListRequest,
    responses((status = 200, description = "A page of jobs, newest first", body = Page<Job>)),
)]
pub async fn list_jobs(upkeep: Upkeep, Fields(list): Fields<ListRequest>) -> Result<Json<Page<Job>>, Problem> {
    Ok(Json(upkeep.list_jobs(list.page("jobs")?).await?))
}

/// Get a job
#[utoipa::path(
    get, path = "/admin/jobs/{job}", tag = "admin",
    params(("job" = JobId, Path, description = "Its id")),
    responses((status = 200, description = "The job, how far it is, and what came of it", body = Job)),
    extensions(("x-problems" = json!(["job_not_found"]))),
)]
pub async fn get_job(upkeep: Upkeep, Path(job): Path<JobId>, Fields(()): Fields<()>) -> Result<Json<Job>, Problem> {
    Ok(Json(upkeep.get_job(job).await?))
}

/// Cancel a job
///
/// A queued job is cancelled at once. A running one is asked to stop, and is cancelled when it has; what it leaves behind is
/// cleaned up.
#[utoipa::path(
    post, path = "/admin/jobs/{job}/cancel", tag = "admin",
    params(("job" = JobId, Path, description = "Its id")),
    responses((status = 200, description = "The job: cancelled, or asked to stop", body = Job)),
    extensions(("x-problems" = json!(["job_not_found", "job_finished", "job_not_cancellable"]))),
)]
pub async fn cancel_job(upkeep: Upkeep, Path(job): Path<JobId>, Fields(()): Fields<()>) -> Result<Json<Job>, Problem> {
    Ok(Json(upkeep.cancel_job(job).await?))
}

/// Follow a job
///
/// Server-Sent Events: all that has happened to the job, then what happens, until it is finished. `state` says that the job
/// is in another state, the last one with its `result` or `error`; `progress` how far it is (`stage`, `done`, `total`,
/// `seconds_left`); `metrics` the figures of a step of training; `note` what there is to know. A client that was cut off
/// sends the number of the last event that it got as `Last-Event-ID`, as browsers do, and gets those after it. Events are
/// kept for seven days after the end of a job.
#[utoipa::path(
    get, path = "/admin/jobs/{job}/events", tag = "admin",
    params(
        ("job" = JobId, Path, description = "Its id"),
        ("Last-Event-ID" = Option<i64>, Header, description = "Only events after this one"),
    ),
    responses((status = 200, description = "The events", body = String, content_type = "text/event-stream")),
    extensions(("x-problems" = json!(["job_not_found"]))),
)]
pub async fn follow_job(
    upkeep: Upkeep,
    Path(job): Path<JobId>,
    headers: HeaderMap,
    Fields(()): Fields<()>,
) -> Result<impl IntoResponse, Problem> {
    let events = upkeep.follow_job(job, last_event(&headers)?).await?;
    let events = events.map(|event| Ok::<_, Infallible>(render(event)));
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // Events may be kept by caches, unless they are told.
    Ok(([(header::CACHE_CONTROL, NOT_KEPT)], events))
}

fn last_event(headers: &HeaderMap) -> Result<i64, Problem> {
    const NAME: &str = "Last-Event-ID";
    let Some(value) = headers.get(NAME) else { return Ok(0) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| invalid(NAME, "the number of an event is expected"))
}

fn render(event: JobEvent) -> Event {
    let JobEvent { sequence, kind, mut data, at } = event;
    if let Value::Object(members) = &mut data {
        members.insert("at".to_owned(), at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true).into());
    }
    // JSON has no line breaks of its own.
    Event::default().id(sequence.to_string()).event(kind).data(data.to_string())
}

/// A job that was submitted, or that does already what was asked for.
pub fn accepted(job: Job, is_new: bool) -> Response {
    let status = if is_new { StatusCode::ACCEPTED } else { StatusCode::OK };
    let location = HeaderValue::from_str(&format!("/admin/jobs/{}", job.id));
    let mut response = (status, Json(job)).into_response();
    // An id has no character that a header could not hold.
    response.headers_mut().extend(location.map(|location| (header::LOCATION, location)));
    response
}

/// What was erased, or the job that erases it.
pub fn deleted<T: Serialize>(deleted: Deleted<T>) -> Response {
    match deleted {
        Deleted::Done(done) => Json(done).into_response(),
        Deleted::Job(job) => accepted(*job, true),
    }
}
