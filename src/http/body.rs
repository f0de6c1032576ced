//! Request bodies up to a limit.

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, header};
use futures_util::{StreamExt, stream};
use thiserror::Error;

use super::problem::{Code, Problem};

/// A refused body is read on, and thrown away, up to this many times the limit: a client that is cut off while it
/// sends sees a broken connection and not the answer.
const DRAINED_LIMITS: usize = 8;

#[derive(Debug, Error)]
#[error("a request body may have {limit} bytes")]
struct TooLong {
    limit: usize,
}

/// The body, which fails once it has more than `limit` bytes.
pub fn limited(body: Body, limit: usize) -> Body {
    let start = (body.into_data_stream(), 0);
    Body::from_stream(stream::try_unfold(start, move |(mut rest, read)| async move {
        let Some(chunk) = rest.next().await else { return Ok(None) };
        let chunk = chunk?;
        let read = read + chunk.len();
        if read > limit {
            drain(&mut rest, limit).await;
            return Err(axum::Error::new(TooLong { limit }));
        }
        Ok(Some((chunk, (rest, read))))
    }))
}

/// Refuses a body that says it is longer than `limit`, before any of it is kept.
pub async fn refuse_declared_length(headers: &HeaderMap, body: Body, limit: usize) -> Result<Body, Problem> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_none_or(|length| length <= limit as u64) {
        return Ok(body);
    }
    // A client that asked first has sent nothing yet, and will not.
    if !headers.contains_key(header::EXPECT) {
        drain(&mut body.into_data_stream(), limit).await;
    }
    Err(too_long(&TooLong { limit }))
}

/// All of a limited body.
pub async fn read_all(body: Body) -> Result<Bytes, Problem> {
    axum::body::to_bytes(body, usize::MAX).await.map_err(|error| {
        let broken = || Problem::new(Code::IncompleteBody, format!("the request body broke off: {error}"));
        length_problem(&error).unwrap_or_else(broken)
    })
}

/// The problem of a body that is too long, if that is what is behind an error of whoever read it.
pub fn length_problem(error: &(dyn std::error::Error + 'static)) -> Option<Problem> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<TooLong>() {
            return Some(too_long(error));
        }
        cause = error.source();
    }
    None
}

fn too_long(error: &TooLong) -> Problem {
    Problem::new(Code::BodyTooLarge, error.to_string())
}

async fn drain(rest: &mut BodyDataStream, limit: usize) {
    let mut drained = 0;
    while let Some(Ok(chunk)) = rest.next().await {
        drained += chunk.len();
        if drained > limit.saturating_mul(DRAINED_LIMITS) {
            break;
        }
    }
}
