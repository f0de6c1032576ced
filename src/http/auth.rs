//! Who may call what: the client key opens recognition, the admin key opens everything.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::problem::{Code, Problem};
use super::state::AppState;
use crate::config::Keys;
use crate::types::Caller;

/// Guards the recognition routes.
pub async fn require_client(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let caller = state.keys.as_deref().map_or_else(|| Ok(Caller::anyone()), |keys| client(keys, request.headers()));
    enter(caller, request, next).await
}

/// Guards /admin.
pub async fn require_admin(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let caller = state.keys.as_deref().map_or_else(|| Ok(Caller::anyone()), |keys| admin(keys, request.headers()));
    enter(caller, request, next).await
}

/// Hands on who asks.
async fn enter(caller: Result<Caller, Problem>, mut request: Request, next: Next) -> Response {
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn client(keys: &Keys, headers: &HeaderMap) -> Result<Caller, Problem> {
    let given = given_key(headers)?;
    match (same(given, keys.client.expose()), same(given, keys.admin.expose())) {
        (_, true) => Ok(Caller::admin_key()),
        (true, _) => Ok(Caller::client_key()),
        _ => Err(wrong_key()),
    }
}

fn admin(keys: &Keys, headers: &HeaderMap) -> Result<Caller, Problem> {
    let given = given_key(headers)?;
    if same(given, keys.admin.expose()) {
        Ok(Caller::admin_key())
    } else if same(given, keys.client.expose()) {
        Err(Problem::new(Code::Forbidden, "this needs the admin key"))
    } else {
        Err(wrong_key())
    }
}

/// The key in `x-api-key`, else the Bearer token.
fn given_key(headers: &HeaderMap) -> Result<&[u8], Problem> {
    let own = headers.get("x-api-key").map(|value| value.as_bytes());
    let bearer = || {
        let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
    };
    own.or_else(bearer).ok_or_else(|| {
        Problem::new(Code::Unauthorized, "a key is needed: `x-api-key: KEY` or `Authorization: Bearer KEY`")
    })
}

/// Compares in a time that depends on the lengths alone.
fn same(given: &[u8], key: &str) -> bool {
    given.ct_eq(key.as_bytes()).into()
}

fn wrong_key() -> Problem {
    Problem::new(Code::Unauthorized, "this key is not known here")
}
