//! Request bodies: how long one may be, how much of all of them is held at once, and what becomes of a body that
//! nobody wants.

mod gathered;

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::{Stream, StreamExt, stream};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::gathered::Gathered;
use super::connections::Admission;
use super::problem::{Code, Problem};

/// Of an unwanted body at most this many times the limit is thrown away before the connection is.
const DRAINED_LIMITS: usize = 8;

/// Bytes per permit of the budget.
const BYTES_PER_PERMIT: usize = 1024;

/// Why a body is not read to its end.
#[derive(Debug, Error)]
enum Refused {
    #[error("a request body may have {limit} bytes here")]
    TooLong { limit: u64 },
    #[error("the server holds as many bytes of requests as it may; try again shortly")]
    Overloaded,
    #[error("to read this request takes more memory than the server has for all requests together")]
    BeyondBudget,
    #[error("nothing of the request body arrived for {} s", patience.as_secs())]
    Stalled { patience: Duration },
}

/// The bytes of all request bodies that may be held at once.
#[derive(Clone)]
pub struct BodyBudget {
    left: Arc<Semaphore>,
    /// Permits that there are.
    all: usize,
}

impl BodyBudget {
    pub fn new(bytes: usize) -> Self {
        let all = bytes.div_ceil(BYTES_PER_PERMIT).min(Semaphore::MAX_PERMITS);
        Self { left: Arc::new(Semaphore::new(all)), all }
    }
}

/// A request's share of the budget, or one of several; given back when the last clone is dropped.
#[derive(Clone, Default)]
pub struct Share(Arc<Mutex<Permits>>);

#[derive(Default)]
struct Permits {
    own: Option<OwnedSemaphorePermit>,
    /// Of all shares of the request.
    request: Arc<AtomicUsize>,
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.request.fetch_sub(self.number(), Ordering::Relaxed);
    }
}

impl Permits {
    fn number(&self) -> usize {
        self.own.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

impl Share {
    /// Another share for the same request, which is given back at another time.
    pub fn another(&self) -> Self {
        let request = Arc::clone(&self.permits().request);
        Self(Arc::new(Mutex::new(Permits { own: None, request })))
    }

    fn permits(&self) -> MutexGuard<'_, Permits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grows to what `bytes` need.
    fn grow(&self, budget: &BodyBudget, bytes: usize) -> Result<(), Refused> {
        let mut permits = self.permits();
        let more = bytes.div_ceil(BYTES_PER_PERMIT).saturating_sub(permits.number());
        // What the whole request holds counts: it would not fit when it is alone either.
        if permits.request.load(Ordering::Relaxed) + more > budget.all {
            return Err(Refused::BeyondBudget);
        }
        let taken = Arc::clone(&budget.left).try_acquire_many_owned(u32::try_from(more).unwrap_or(u32::MAX));
        let taken = taken.map_err(|_| Refused::Overloaded)?;
        permits.request.fetch_add(more, Ordering::Relaxed);
        match permits.own.as_mut() {
            Some(own) => own.merge(taken),
            None => permits.own = Some(taken),
        }
        Ok(())
    }

    /// Grows to what `bytes` need, for a copy of the body that is made; fails if the budget has too little left.
    pub fn grow_to(&self, budget: &BodyBudget, bytes: usize) -> Result<(), Problem> {
        self.grow(budget, bytes).map_err(|refused| problem(&refused))
    }

    /// Bytes that keep the share until they are dropped.
    pub fn attach(&self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _share: self.clone() })
    }
}

struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body, which fails once it has more than `limit` bytes.
pub fn limited(body: Body, limit: u64) -> Body {
    Body::from_stream(stream::try_unfold((body.into_data_stream(), 0), move |(mut rest, read)| async move {
        let Some(chunk) = rest.next().await.transpose()? else { return Ok(None) };
        let read = read + chunk.len() as u64;
        if read > limit {
            return Err(axum::Error::new(Refused::TooLong { limit }));
        }
        Ok(Some((chunk, (rest, read))))
    }))
}

/// The body, counted against a budget; it fails once that has too little left.
pub fn counted(body: Body, budget: BodyBudget, share: Share) -> Body {
    let start = (body.into_data_stream(), 0, budget, share);
    Body::from_stream(stream::try_unfold(start, move |(mut rest, read, budget, share)| async move {
        let Some(chunk) = rest.next().await.transpose()? else { return Ok(None) };
        let read = read + chunk.len();
        share.grow(&budget, read).map_err(axum::Error::new)?;
        Ok::<_, axum::Error>(Some((chunk, (rest, read, budget, share))))
    }))
}

/// The body, which may take as long as it keeps coming: it fails once nothing came for as long as `patience`.
pub fn patient(body: Body, patience: Duration) -> Body {
    Body::from_stream(stream::try_unfold(body.into_data_stream(), move |mut rest| async move {
        let next = tokio::time::timeout(patience, rest.next()).await;
        let chunk = next.map_err(|_| axum::Error::new(Refused::Stalled { patience }))?;
        Ok::<_, axum::Error>(chunk.transpose()?.map(|chunk| (chunk, rest)))
    }))
}

/// Refuses a body that says it is longer than `limit`.
pub fn refuse_declared_length(length: Option<&header::HeaderValue>, limit: u64) -> Result<(), Problem> {
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > limit => Err(problem(&Refused::TooLong { limit })),
        _ => Ok(()),
    }
}

/// All of a limited body.
pub async fn read_all(body: Body) -> Result<Bytes, Problem> {
    axum::body::to_bytes(body, usize::MAX).await.map_err(|error| broken_off(&error))
}

/// Why a body was not read to its end.
pub fn broken_off(error: &(dyn std::error::Error + 'static)) -> Problem {
    let broken = || Problem::new(Code::IncompleteBody, format!("the request body broke off: {error}"));
    refusal(error).unwrap_or_else(broken)
}

/// The problem of a body that [`limited`], [`counted`] or [`patient`] ended, if that is behind an error.
fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<Problem> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            return Some(problem(refused));
        }
        cause = error.source();
    }
    None
}

fn problem(refused: &Refused) -> Problem {
    let code = match refused {
        Refused::TooLong { .. } | Refused::BeyondBudget => Code::BodyTooLarge,
        Refused::Overloaded => Code::Overloaded,
        Refused::Stalled { .. } => Code::RequestTimeout,
    };
    Problem::new(code, refused.to_string())
}

/// A body that is lent to a handler, to be had back afterwards.
#[derive(Clone)]
struct Lent(Arc<Mutex<Rest>>);

struct Rest {
    stream: Gathered,
    begun: bool,
}

impl Stream for Lent {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut rest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rest.begun = true;
        rest.stream.poll_next_unpin(context)
    }
}

/// Reads what a refusal leaves of a body, and throws it away: a client that is cut off while it sends gets to see a
/// broken connection and not the answer, which goes out meanwhile. One that waits to be told to send (`Expect: 100-continue`)
/// has no need of it. When others need the place of this connection, it ends.
pub async fn drain_refused(limit: usize, patience: Duration, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let waits = parts.headers.contains_key(header::EXPECT);
    let admission = parts.extensions.get::<Admission>().cloned();
    let stream = Gathered::new(body);
    let mut lent = Lent(Arc::new(Mutex::new(Rest { stream, begun: false })));
    let response = next.run(Request::from_parts(parts, Body::from_stream(lent.clone()))).await;
    let untouched = !lent.0.lock().unwrap_or_else(PoisonError::into_inner).begun;
    let slow = response.status() == StatusCode::REQUEST_TIMEOUT;
    if !(response.status().is_success() || slow || waits && untouched) {
        let drain = async move {
            let mut drained = 0;
            while let Some(Ok(chunk)) = lent.next().await {
                drained += chunk.len();
                if drained > limit.saturating_mul(DRAINED_LIMITS) {
                    break;
                }
            }
        };
        let refused = admission.map(Admission::refused);
        tokio::spawn(async move {
            // A connection that gives way ends, and with it what is read here.
            let _refused = refused;
            tokio::time::timeout(patience, drain).await
        });
    }
    response
}
