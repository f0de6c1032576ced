//! POST /admin/datasets

use axum::extract::{Request, State};
use axum::http::header;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};

use super::body;
use super::form::{self, Form, invalid, missing};
use super::multipart::Multipart;
use super::problem::Problem;
use super::repeat::{Fingerprint, submitted};
use super::state::AppState;
use crate::service::answers::Job;
use crate::service::requests::DatasetRequest;
use crate::service::{Enrolment, NewDataset, ServiceError};

/// The field of the archive.
const FILE: &str = "file";

/// Upload a data set
///
/// A ZIP archive with one folder for each person, named after the person, with their photos in it; one folder around all of
/// them is fine. A job enrolls the largest face of each photo into a gallery, with requests going first, and deletes the
/// archive when it is finished. Its result counts `subjects`, `faces` that were enrolled, photos that were `already_there`,
/// and `refused` ones, of which `refusals` lists the first 100. The same archive again adds nothing. Files beside the folders,
/// folders within them and hidden files are left out.
///
/// The body may take as long as it keeps coming. What was uploaded is a gallery like any other: POST /admin/retrain learns
/// from it, and who is erased from it is erased.
#[utoipa::path(
    post, path = "/admin/datasets", tag = "admin", request_body = DatasetRequest,
    responses((status = 202, description = "The job, which is queued", body = Job, headers(("location" = String, description = "Of the job")))),
    extensions(("x-problems" = json!(["invalid_dataset", "idempotency_key_reused"])), ("x-streamed" = json!("application/zip"))),
)]
pub async fn upload_dataset(
    State(state): State<AppState>,
    enrolment: Enrolment,
    request: Request,
) -> Result<Response, Problem> {
    let Ok(_place) = state.dataset_places.try_acquire() else {
        return Err(ServiceError::Overloaded.into());
    };
    let mut fingerprint = Fingerprint::of(&request)?;
    let (dataset, asked) = receive(&state, &enrolment, request, fingerprint.as_mut()).await?;
    let key = fingerprint.map(Fingerprint::finish).transpose()?;
    Ok(submitted(enrolment.submit_dataset(dataset, asked, key).await?))
}

/// Stores an archive as it arrives. What it is goes into the fingerprint.
async fn receive(
    state: &AppState,
    enrolment: &Enrolment,
    request: Request,
    mut fingerprint: Option<&mut Fingerprint>,
) -> Result<(NewDataset, DatasetRequest), Problem> {
    let (mut parts, body) = request.into_parts();
    let mut form = Form::of::<DatasetRequest>();
    let query = form::query(&mut parts).await?;
    body::refuse_declared_length(parts.headers.get(header::CONTENT_LENGTH), state.max_dataset_bytes)?;
    let body = body::limited(body::patient(body, state.request_timeout), state.max_dataset_bytes);
    match form::media_type(&parts.headers).as_str() {
        "multipart/form-data" => {
            let parts = Multipart::new(&parts.headers, body)?;
            let dataset = receive_form(enrolment, parts, &mut form, fingerprint.as_deref_mut()).await?;
            let asked = asked(form, query, fingerprint)?;
            Ok((dataset.ok_or_else(|| missing(FILE))?, asked))
        }
        "application/zip" | "application/x-zip-compressed" | "application/octet-stream" => {
            // It need not be sent in vain.
            let asked = asked(form, query, fingerprint.as_deref_mut())?;
            let chunks = body.into_data_stream().map_err(|error| body::broken_off(&error));
            Ok((store(enrolment, chunks, fingerprint).await?, asked))
        }
        other => Err(form::unsupported_media_type(other, "application/zip, multipart/form-data")),
    }
}

async fn receive_form(
    enrolment: &Enrolment,
    mut parts: Multipart,
    form: &mut Form,
    mut fingerprint: Option<&mut Fingerprint>,
) -> Result<Option<NewDataset>, Problem> {
    let mut dataset = None;
    while let Some(name) = parts.next_part().await? {
        match name.as_str() {
            FILE if dataset.is_some() => return Err(invalid(FILE, "it is given twice")),
            FILE => {
                let chunks = stream::try_unfold(&mut parts, |parts| async {
                    Ok(parts.next_bytes().await?.map(|bytes| (bytes, parts)))
                });
                dataset = Some(store(enrolment, chunks, fingerprint.as_deref_mut()).await?);
            }
            _ => {
                form.check_known(&name)?;
                form.read_field(name, &mut parts).await?;
            }
        }
    }
    Ok(dataset)
}

fn asked(
    mut form: Form,
    query: Vec<(String, String)>,
    fingerprint: Option<&mut Fingerprint>,
) -> Result<DatasetRequest, Problem> {
    form.add_query(query)?;
    let mut request: DatasetRequest = form.into_request()?;
    if let Some(fingerprint) = fingerprint {
        fingerprint.add_request(&mut request)?;
    }
    Ok(request)
}

async fn store(
    enrolment: &Enrolment,
    chunks: impl Stream<Item = Result<Bytes, Problem>>,
    mut fingerprint: Option<&mut Fingerprint>,
) -> Result<NewDataset, Problem> {
    let mut dataset = enrolment.begin_dataset().await?;
    let mut chunks = std::pin::pin!(chunks);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        if let Some(fingerprint) = &mut fingerprint {
            fingerprint.add_piece(&chunk);
        }
        dataset.write(chunk).await?;
    }
    Ok(dataset)
}
