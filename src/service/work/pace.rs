//! What work in the background has in common: requests come first.

use std::time::{Duration, Instant};

use crate::engine::EngineError;
use crate::service::ServiceError;

/// Chips that are worked on in one go: few, as requests wait meanwhile.
pub(in crate::service) const PIECE: usize = 8;

/// How long to wait when the engine has no room.
const BREATH: Duration = Duration::from_millis(200);

/// The longest rest, so that a piece that took unusually long does not hold up everything.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Does work, again for as long as the engine has no room for it.
pub(in crate::service) async fn patiently<T, F>(mut work: impl FnMut() -> F) -> Result<T, ServiceError>
where
    F: Future<Output = Result<T, ServiceError>>,
{
    loop {
        match work().await {
            Err(ServiceError::Engine(EngineError::Overloaded)) => breathe().await,
            done => return done,
        }
    }
}

/// Waits for a moment in which things may get better.
pub(in crate::service) async fn breathe() {
    tokio::time::sleep(BREATH).await;
}

/// Rests after a piece of work that `began` then, so that work takes a `share` of the time, above 0 to 1.
pub(in crate::service) async fn rest(began: Instant, share: f64) {
    tokio::time::sleep(rest_after(began.elapsed(), share)).await;
}

/// How long to rest after work of some `time`.
pub(in crate::service) fn rest_after(time: Duration, share: f64) -> Duration {
    time.mul_f64(1.0 / share - 1.0).min(LONGEST_REST)
}
