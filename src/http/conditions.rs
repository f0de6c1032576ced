//! Requests that depend on a state: `ETag`, `If-Match` and `If-None-Match` (RFC 9110, sections 8.8.3 and 13).
//!
//! The tag of an answer is the revision of the gallery or subject, a dash, and a digest of the whole body. `If-None-Match` looks at
//! all of it, so that 304 says that nothing at all has changed. `If-Match` looks at the revision alone: it is there so that nobody
//! undoes a change that they have not seen, and a face that is enrolled meanwhile changes nothing that they could undo.

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::problem::{Code, Problem};
use crate::gallery::{Expected, Revision};
use crate::service::answers::Revised;

/// Where `If-Match` is looked at, by whatever changes something.
const CHECKED: [&str; 3] = ["/galleries/{gallery}", "/subjects/{subject}", "/subjects/{subject}/merge"];

/// Digits of the digest.
const DIGEST: usize = 16;

/// In which state a request is to change something.
pub struct IfMatch(pub Expected);

/// What a client knows already.
pub struct IfNoneMatch(Option<Tags>);

/// What a condition names.
#[derive(Debug, PartialEq, Eq)]
enum Tags {
    /// `*`
    Any,
    OneOf(Vec<Tag>),
}

/// A tag without its quotes.
#[derive(Debug, PartialEq, Eq)]
struct Tag {
    weak: bool,
    text: String,
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(match tags(&parts.headers, &header::IF_MATCH)? {
            None | Some(Tags::Any) => Expected::Any,
            Some(Tags::OneOf(tags)) => Expected::OneOf(tags.iter().filter_map(revision).collect()),
        }))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        tags(&parts.headers, &header::IF_NONE_MATCH).map(Self)
    }
}

impl IfNoneMatch {
    /// What is there, or that the client knows it.
    pub fn answer<T: Serialize>(self, revised: &Revised<T>) -> Result<Response, Problem> {
        let response = tagged(StatusCode::OK, revised)?;
        let tag = &response.headers()[header::ETAG];
        let known = match self.0 {
            None => false,
            Some(Tags::Any) => true,
            Some(Tags::OneOf(tags)) => tags.iter().any(|known| tag == format!("\"{}\"", known.text).as_str()),
        };
        if known { Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag.clone())]).into_response()) } else { Ok(response) }
    }
}

/// An answer with its tag.
pub fn tagged<T: Serialize>(status: StatusCode, revised: &Revised<T>) -> Result<Response, Problem> {
    let body = serde_json::to_vec(&revised.answer).map_err(Problem::internal)?;
    let digest = format!("{:x}", Sha256::digest(&body));
    let tag = format!("\"{}-{}\"", revised.revision.0.simple(), &digest[..DIGEST]);
    let tag = HeaderValue::try_from(tag).map_err(Problem::internal)?;
    let headers = [(header::ETAG, tag), (header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((status, headers, body).into_response())
}

/// The revision that a tag begins with. A weak tag never matches (RFC 9110, section 13.1.1), nor does one of somebody else's.
fn revision(tag: &Tag) -> Option<Revision> {
    let text = tag.text.split('-').next().filter(|_| !tag.weak)?;
    Uuid::try_parse(text).ok().map(Revision)
}

/// The tags of a condition. `None`: there is none.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let lines: Vec<_> = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let malformed = || {
        let detail = format!("{name}: * or a list of entity tags is expected, with their quotes, as ETag had them");
        Problem::new(Code::MalformedPrecondition, detail)
    };
    read(&lines.join(",")).map(Some).ok_or_else(malformed)
}

fn read(list: &str) -> Option<Tags> {
    let between = |c| matches!(c, ' ' | '\t' | ',');
    let mut rest = list.trim_matches(between);
    if rest == "*" {
        return Some(Tags::Any);
    }
    let mut tags = Vec::new();
    while !rest.is_empty() {
        let weak = rest.strip_prefix("W/");
        let (text, after) = weak.unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        tags.push(Tag { weak: weak.is_some(), text: text.to_owned() });
        if !(after.is_empty() || after.trim_start_matches([' ', '\t']).starts_with(',')) {
            return None;
        }
        rest = after.trim_start_matches(between);
    }
    (!tags.is_empty()).then_some(Tags::OneOf(tags))
}

/// Refuses a change that is to depend on a state where there is none to look at: who asks for that would rather have nothing
/// changed than the wrong thing. `If-None-Match` is for GET alone.
pub async fn refuse_unchecked(request: Request, next: Next) -> Response {
    match unchecked(&request) {
        Some(why) => Problem::new(Code::PreconditionFailed, why).into_response(),
        None => next.run(request).await,
    }
}

/// Why nobody would look at what a request depends on.
fn unchecked(request: &Request) -> Option<&'static str> {
    let has = |name| request.headers().contains_key(name);
    if request.method().is_safe() {
        return None;
    }
    if has(header::IF_NONE_MATCH) {
        return Some("If-None-Match is for GET and HEAD");
    }
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let nowhere = has(header::IF_MATCH) && !CHECKED.contains(&route);
    nowhere.then_some("If-Match names a state, and what this route changes has none")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(weak: bool, text: &str) -> Tag {
        Tag { weak, text: text.to_owned() }
    }

    #[test]
    fn conditions_are_read_as_they_are_written() {
        for (text, expected) in [
            ("*", Some(Tags::Any)),
            (" * ", Some(Tags::Any)),
            ("\"a\"", Some(Tags::OneOf(vec![tag(false, "a")]))),
            ("\"a,b\" ,, W/\"c\"", Some(Tags::OneOf(vec![tag(false, "a,b"), tag(true, "c")]))),
            ("\"\"", Some(Tags::OneOf(vec![tag(false, "")]))),
            ("", None),
            (" , ", None),
            ("a", None),
            ("'a'", None),
            ("\"a", None),
            ("\"a\" \"b\"", None),
            ("\"a\"b", None),
            ("w/\"a\"", None),
            ("*, \"a\"", None),
            ("\"a\", *", None),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_change_depends_on_the_revision_alone_and_on_no_weak_tag() {
        let id = Uuid::now_v7();
        let simple = id.simple();
        assert_eq!(revision(&tag(false, &format!("{simple}-0123"))), Some(Revision(id)));
        assert_eq!(revision(&tag(false, &simple.to_string())), Some(Revision(id)));
        assert_eq!(revision(&tag(true, &format!("{simple}-0123"))), None);
        assert_eq!(revision(&tag(false, "of-another-server")), None);
    }
}
