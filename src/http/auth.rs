//! Who may call what. A route says what it needs; whoever shows a key that allows it is put into the request as its
//! [`Caller`](crate::types::Caller).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::request_id::RequestId;

use super::problem::Problem;
use super::{audit, connections};
use crate::service::{Access, Audit};
use crate::types::{Caller, Permission};

/// What a route is guarded by. Cloning is cheap.
#[derive(Clone)]
pub struct Guard(Arc<Parts>);

struct Parts {
    access: Access,
    audit: Audit,
    needed: Permission,
}

/// Who shows a key, as `limits` found out when it counted the request. What they may is not looked at yet.
#[derive(Clone)]
pub struct Recognised(pub Caller);

impl Guard {
    pub fn new(access: Access, audit: Audit, needed: Permission) -> Self {
        Self(Arc::new(Parts { access, audit, needed }))
    }
}

/// Lets pass whoever may, and notes in the audit which questions and enrolments are refused to somebody who is known.
pub async fn require(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let Guard(guard) = guard;
    let recognised = match request.extensions_mut().remove() {
        Some(Recognised(caller)) => Ok(caller),
        // Why they are not.
        None => guard.access.recognise(shown_key(request.headers())),
    };
    let caller = match recognised {
        Ok(caller) => asking_by(&request, caller),
        Err(refusal) => return Problem::from(refusal).into_response(),
    };
    let noted = audit::action(&request).map(|action| (action, caller.clone()));
    let response = match guard.access.check(&caller, guard.needed) {
        Err(refusal) => Problem::from(refusal).into_response(),
        Ok(()) if !connections::has_place(&request) => connections::refusal(),
        Ok(()) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
    };
    if let Some((action, caller)) = noted {
        audit::note_refusal(&guard.audit, action, caller, &response);
    }
    response
}

/// A caller, as they ask by this request.
fn asking_by(request: &Request, caller: Caller) -> Caller {
    match request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()) {
        Some(id) => caller.by_request(id),
        None => caller,
    }
}

/// The key in `x-api-key`, else the Bearer token.
pub fn shown_key(headers: &HeaderMap) -> Option<&[u8]> {
    let own = headers.get("x-api-key").map(|value| value.as_bytes());
    let bearer = || {
        let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
    };
    own.or_else(bearer)
}
