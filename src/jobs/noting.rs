//! Jobs in the audit: what they are, and no more. What they are about may name people.

use serde_json::json;
use sqlx::PgConnection;

use super::Job;
use crate::audit::{Action, Entry, append};
use crate::types::Actor;

/// Notes it as part of what the connection is doing.
pub(super) async fn note(
    connection: &mut PgConnection,
    actor: &Actor,
    action: Action,
    job: &Job,
) -> Result<(), sqlx::Error> {
    let details = json!({"job": job.id, "kind": job.kind.name()});
    let entry = Entry::new(actor, action).galleries(job.galleries.iter().flatten().copied()).details(details);
    append(connection, &entry.outcome(job.state.name())).await
}
