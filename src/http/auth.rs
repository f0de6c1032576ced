//! Who may call what. A route says what it needs; whoever shows a key that allows it is put into the request as its
//! [`Caller`](crate::types::Caller).

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::request_id::RequestId;

use super::connections;
use super::problem::Problem;
use crate::service::{Access, ServiceError};
use crate::types::{Caller, Permission};

/// What a route is guarded by.
#[derive(Clone)]
pub struct Guard {
    pub access: Access,
    pub needed: Permission,
}

/// Who shows a key, as `limits` found out when it counted the request. What they may is not looked at yet.
#[derive(Clone)]
pub struct Recognised(pub Caller);

/// Lets pass whoever may.
pub async fn require(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    match guard.admit(&mut request) {
        Ok(caller) => {
            if !connections::has_place(&request) {
                return connections::refusal();
            }
            let caller = asking_by(&request, caller);
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refusal) => Problem::from(refusal).into_response(),
    }
}

/// Who shows a key that counts, before it is looked whether they may do what they ask for.
pub fn recognised(request: &Request) -> Option<Caller> {
    let Recognised(caller) = request.extensions().get()?;
    Some(asking_by(request, caller.clone()))
}

/// A caller, as they ask by this request.
fn asking_by(request: &Request, caller: Caller) -> Caller {
    match request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()) {
        Some(id) => caller.by_request(id),
        None => caller,
    }
}

impl Guard {
    fn admit(&self, request: &mut Request) -> Result<Caller, ServiceError> {
        let caller = match request.extensions_mut().remove() {
            Some(Recognised(caller)) => caller,
            // Why they are not.
            None => self.access.recognise(shown_key(request.headers()))?,
        };
        self.access.check(&caller, self.needed)?;
        Ok(caller)
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
