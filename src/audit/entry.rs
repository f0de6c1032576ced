//! An entry before it is sealed, and how it gets into the database.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Action;
use crate::types::{Actor, GalleryId, ModelId, SubjectId};

/// Something that was asked or changed. It has ids, and no name of a person, no metadata, no image and no vector: what is erased
/// must not live on here.
#[derive(Debug, Clone)]
pub struct Entry {
    id: Uuid,
    at: DateTime<Utc>,
    actor: Actor,
    action: Action,
    outcome: Option<Cow<'static, str>>,
    galleries: Vec<Uuid>,
    subjects: Vec<Uuid>,
    model: Option<ModelId>,
    details: Value,
}

impl Entry {
    pub fn new(actor: &Actor, action: Action) -> Self {
        Self {
            id: Uuid::now_v7(),
            at: Utc::now(),
            actor: actor.clone(),
            action,
            outcome: None,
            galleries: Vec::new(),
            subjects: Vec::new(),
            model: None,
            details: Value::Null,
        }
    }

    pub fn action(&self) -> Action {
        self.action
    }

    /// Takes this id, that of a receipt, instead of a new one.
    pub fn with_id(self, id: Uuid) -> Self {
        Self { id, ..self }
    }

    /// What came of it: a word, or the code of a problem.
    pub fn outcome(self, outcome: impl Into<Cow<'static, str>>) -> Self {
        Self { outcome: Some(outcome.into()), ..self }
    }

    /// The galleries that it concerns; whoever sees all of them sees the entry.
    pub fn galleries(self, galleries: impl IntoIterator<Item = GalleryId>) -> Self {
        Self { galleries: galleries.into_iter().map(|gallery| gallery.0).collect(), ..self }
    }

    pub fn subjects(self, subjects: impl IntoIterator<Item = SubjectId>) -> Self {
        Self { subjects: subjects.into_iter().map(|subject| subject.0).collect(), ..self }
    }

    pub fn model(self, model: Option<ModelId>) -> Self {
        Self { model, ..self }
    }

    /// What else there is to say, an object.
    pub fn details(self, details: Value) -> Self {
        Self { details, ..self }
    }
}

/// Notes it as part of what the connection is doing.
pub async fn append(connection: &mut PgConnection, entry: &Entry) -> Result<(), sqlx::Error> {
    append_all(connection, std::slice::from_ref(entry)).await?;
    metrics::counter!("faceid_audit_entries_total", "kind" => "change").increment(1);
    Ok(())
}

/// Notes several by one statement; those that are there already are left out.
pub(super) async fn append_all(connection: &mut PgConnection, entries: &[Entry]) -> Result<(), sqlx::Error> {
    // An array of arrays has one length for all; the text of an array has not.
    let array = |ids: &[Uuid]| format!("{{{}}}", ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(","));
    let details = |details: &Value| if details.is_null() { "{}".to_owned() } else { details.to_string() };
    sqlx::query(
        "insert into audit (id, at, actor, key_id, request_id, action, outcome, galleries, subjects, model_id, details) \
         select id, at, actor, key_id, request_id, action, outcome, galleries::uuid[], subjects::uuid[], model_id, details \
         from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], \
             $9::text[], $10::uuid[], $11::text[]) \
             as n (id, at, actor, key_id, request_id, action, outcome, galleries, subjects, model_id, details) \
         on conflict on constraint audit_pkey do nothing",
    )
    .bind(entries.iter().map(|entry| entry.id).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.at).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| &*entry.actor.name).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.actor.key.map(|key| key.0)).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.actor.request.as_deref()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.action.as_str()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.outcome.as_deref()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| array(&entry.galleries)).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| array(&entry.subjects)).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.model.map(|model| model.0)).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| details(&entry.details)).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}
