//! /admin/audit: the record of what was asked and changed; and what of it only this layer sees, requests that are refused.

use axum::Json;
use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::response::Response;

use super::compreface;
use super::form::Fields;
use super::problem::{Code, Problem};
use crate::audit::Action;
use crate::service::Audit;
use crate::service::answers::{AuditEntry, AuditHead, Page};
use crate::service::requests::AuditRequest;
use crate::types::Caller;

/// List what was asked and changed
///
/// Identifications, verifications, comparisons, exports and changes: who made them, and with what outcome. Other reads are not recorded. It
/// names galleries, subjects and models by ids, and no person. The
/// entries are chained by hashes: a change shows when the chain is verified.
#[utoipa::path(
    get, path = "/admin/audit", tag = "admin", request_body = AuditRequest,
    responses((status = 200, description = "A page of the record, latest first", body = Page<AuditEntry>)),
    extensions(("x-problems" = json!(["gallery_not_found", "model_not_found"]))),
)]
pub async fn list_audit(
    audit: Audit,
    Fields(request): Fields<AuditRequest>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    Ok(Json(audit.list(&request, request.page()?).await?))
}

/// Where the audit ends
///
/// The position and the hash of the last entry of the chain. Whoever keeps them elsewhere can show later that no entry up to there was
/// changed: `faceid audit verify --head`.
#[utoipa::path(
    get, path = "/admin/audit/head", tag = "admin",
    responses((status = 200, description = "The end of the chain", body = AuditHead)),
)]
pub async fn get_audit_head(audit: Audit, Fields(()): Fields<()>) -> Result<Json<AuditHead>, Problem> {
    Ok(Json(audit.head().await?))
}

/// What a request is noted as, if it asks about a person or enrolls one.
pub fn action(request: &Request) -> Option<Action> {
    request.extensions().get::<MatchedPath>().and_then(|route| action_of(request.method(), route.as_str()))
}

/// Notes who was refused an answer, or an enrolment, and why: also for want of a role. Those who are answered are noted where they are,
/// and so are faces that are refused as duplicates, with whom they match. Who shows no key that counts is not known, and who sends more
/// than they may is not noted, or refusals would fill the audit; nor is a request whose time is up.
pub fn note_refusal(audit: &Audit, action: Action, caller: Caller, response: &Response) {
    if let Some(code) = response.extensions().get::<Code>().filter(|code| **code != Code::DuplicateFace) {
        audit.for_caller(caller).note_refusal(action, code.name());
    }
}

/// What a route is noted as, if it asks about a person or enrolls one.
fn action_of(method: &Method, route: &str) -> Option<Action> {
    if method != Method::POST {
        return None;
    }
    Some(match route.strip_prefix(compreface::BASE).unwrap_or(route) {
        "/identify" | "/recognition/recognize" => Action::Identify,
        "/identify/batch" => Action::IdentifyBatch,
        "/identify/embedding" | "/recognition/embeddings/recognize" => Action::IdentifyEmbedding,
        "/subjects/{subject}/identify" | "/faces/{face}/identify" => Action::IdentifyStored,
        "/verify" | "/verification/verify" | "/verification/embeddings/verify" => Action::Verify,
        "/subjects/{subject}/verify"
        | "/faces/{face}/verify"
        | "/recognition/faces/{face}/verify"
        | "/recognition/embeddings/faces/{face}/verify" => Action::VerifyStored,
        "/compare" => Action::Compare,
        "/enroll" | "/recognition/faces" => Action::FaceEnroll,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::http::routes;
    use crate::types::Permission;

    /// Those that look for faces, or give what can be looked for by, say nothing of who somebody is.
    const OF_NOBODY: [&str; 4] = ["/detect", "/embed", "/embed/batch", "/api/v1/detection/detect"];

    #[test]
    fn every_question_is_noted_when_it_is_refused() {
        let mut asked = HashSet::new();
        for group in routes::groups().iter().filter(|group| group.needed == Permission::Ask) {
            for path in group.routes.get_openapi().paths.paths.keys() {
                assert_eq!(action_of(&Method::POST, path).is_none(), OF_NOBODY.contains(&path.as_str()), "{path}");
                asked.extend(action_of(&Method::POST, path));
            }
        }
        for (_, _, path) in compreface::ROUTES.iter().filter(|(needed, ..)| *needed == Permission::Ask) {
            let path = format!("{}{path}", compreface::BASE);
            assert_eq!(action_of(&Method::POST, &path).is_none(), OF_NOBODY.contains(&path.as_str()), "{path}");
        }
        assert_eq!(action_of(&Method::POST, "/api/v1/recognition/faces"), Some(Action::FaceEnroll));
        assert_eq!(action_of(&Method::GET, "/api/v1/recognition/faces"), None);
        let questions: HashSet<Action> = Action::ALL.iter().copied().filter(|action| action.is_question()).collect();
        assert_eq!(asked, questions);
    }
}
