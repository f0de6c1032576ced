//! The body and the query string of a request, as fuzzers make them.

use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use tokio::runtime::{Builder, Runtime};

use super::body::BodyBudget;
use super::form::{Form, FromForm};
use crate::service::requests::{
    DeleteSubjects, EnrollRequest, IdentifyBatchRequest, IdentifyEmbeddingRequest, IdentifyRequest, ListSubjects,
    NewGallery, NewKey, VerifyRequest,
};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime can be made"));

const LIMIT: usize = 64 << 10;

/// Reads a request. The first byte says which route it is for and its media type, the first line goes on with the query string,
/// and all after it is the body.
pub fn form(bytes: &[u8]) -> bool {
    let Some((&kind, rest)) = bytes.split_first() else { return false };
    let (query, body) =
        rest.iter().position(|byte| *byte == b'\n').map_or((rest, &b""[..]), |end| (&rest[..end], &rest[end + 1..]));
    let media_type = ["multipart/form-data; boundary=x", "application/json", "image/jpeg", ""][usize::from(kind % 4)];
    let Ok(uri) = axum::http::Uri::try_from([b"/?", query].concat()) else { return false };
    let request = Request::builder().uri(uri).header(header::CONTENT_TYPE, media_type);
    let Ok(request) = request.body(Body::from(body.to_vec())) else { return false };
    match kind / 4 % 9 {
        0 => read::<EnrollRequest>(request),
        1 => read::<IdentifyRequest>(request),
        2 => read::<VerifyRequest>(request),
        3 => read::<IdentifyBatchRequest>(request),
        4 => read::<IdentifyEmbeddingRequest>(request),
        5 => read::<DeleteSubjects>(request),
        6 => read::<NewGallery>(request),
        7 => read::<NewKey>(request),
        _ => read::<ListSubjects>(request),
    }
}

fn read<T: FromForm>(request: Request) -> bool {
    let budget = BodyBudget::new(4 * LIMIT);
    let read = RUNTIME.block_on(async {
        let form = Form::read(request, Form::of::<T>(), (LIMIT, budget)).await?;
        form.finish::<T>().await
    });
    if let Err(problem) = &read {
        assert!((400..500).contains(&problem.status), "{problem:?}");
    }
    read.is_ok()
}
