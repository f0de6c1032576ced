//! How long a request took, in the headers of its answer; and the trace of its caller, for the log.

use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use crate::engine::Spent;

/// From the head of the request to the head of the answer.
pub const TOTAL: HeaderName = HeaderName::from_static("x-total-time");
/// Of that, how long its work waited for the engine.
pub const QUEUE: HeaderName = HeaderName::from_static("x-queue-time");
/// And how long the networks took over it.
pub const INFERENCE: HeaderName = HeaderName::from_static("x-inference-time");

const TRACE: HeaderName = HeaderName::from_static("traceparent");

/// Tells how long a request took, in milliseconds; what the engine spent only if it was asked.
pub async fn tell(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (mut response, spent) = Spent::by(next.run(request)).await;
    let headers = response.headers_mut();
    let (waited, inferred) = (spent.waited(), spent.inferred());
    if !(waited.is_zero() && inferred.is_zero()) {
        insert(headers, QUEUE, waited);
        insert(headers, INFERENCE, inferred);
    }
    insert(headers, TOTAL, began.elapsed());
    response
}

fn insert(headers: &mut HeaderMap, name: HeaderName, time: Duration) {
    if let Ok(milliseconds) = HeaderValue::from_str(&format!("{:.3}", time.as_secs_f64() * 1e3)) {
        headers.insert(name, milliseconds);
    }
}

/// The id of the caller's trace (W3C Trace Context), if there is one and only one and it is valid.
pub fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(TRACE).iter();
    let (Some(only), None) = (given.next(), given.next()) else { return None };
    let mut parts = only.to_str().ok()?.split('-');
    let (version, trace) = (hex(parts.next()?, 2)?, hex(parts.next()?, 32)?);
    let (parent, _flags) = (hex(parts.next()?, 16)?, hex(parts.next()?, 2)?);
    // Later versions may say more.
    let complete = version != "00" || parts.next().is_none();
    let nothing = |id: &str| id.bytes().all(|digit| digit == b'0');
    (complete && version != "ff" && !nothing(trace) && !nothing(parent)).then_some(trace)
}

/// As many digits, in lower case.
fn hex(text: &str, digits: usize) -> Option<&str> {
    let good = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    (text.len() == digits && text.bytes().all(good)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACE, value.parse().unwrap());
        }
        trace_id(&headers).map(str::to_owned)
    }

    #[test]
    fn a_trace_is_heeded_if_it_is_valid() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("00-{TRACE}-00f067aa0ba902b7-01");
        assert_eq!(of(&[&good]).as_deref(), Some(TRACE));
        assert_eq!(of(&[&format!("cc-{TRACE}-00f067aa0ba902b7-01-what-comes")]).as_deref(), Some(TRACE));
        for bad in [
            "",
            "00",
            TRACE,
            &format!("00-{TRACE}-00f067aa0ba902b7"),
            &format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            &format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            &format!("00-{TRACE}-0000000000000000-01"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{TRACE}0-00f067aa0ba902b7-01"),
            &format!("00-{TRACE}-00f067aa0ba902b7-0g"),
        ] {
            assert_eq!(of(&[bad]), None, "{bad}");
        }
        assert_eq!(of(&[&good, &good]), None);
    }
}
