//! Reading: lists with filters, and all of the chain in its order.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Postgres, QueryBuilder, Row};
use uuid::Uuid;

use super::chain::{Record, content};
use super::{Audit, AuditError};
use crate::db::{Page, PageRequest};
use crate::types::{GalleryId, ModelId, SubjectId};

/// Entries that are read at once.
const PIECE: i64 = 1000;

/// Which entries are wanted; `None`: all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The name, or the id of a key.
    pub actor: Option<String>,
    /// An action, or the part of its name before a dot.
    pub action: Option<String>,
    pub gallery: Option<GalleryId>,
    pub subject: Option<SubjectId>,
    pub model: Option<ModelId>,
    /// Not before.
    pub from: Option<DateTime<Utc>>,
    /// Before.
    pub to: Option<DateTime<Utc>>,
}

/// An entry as it is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub record: Record,
    /// Whether it has its place in the chain.
    pub is_sealed: bool,
    /// The name of the model, if it is still known.
    pub model: Option<String>,
    pub details: Value,
}

impl FromRow<'_, PgRow> for Listed {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let record = Record::from_row(row)?;
        // What somebody wrote by hand may be no JSON.
        let details = serde_json::from_str(&record.details).unwrap_or_else(|_| Value::String(record.details.clone()));
        Ok(Self { is_sealed: record.position > 0, model: row.try_get("model")?, details, record })
    }
}

impl Filter {
    /// Only what is said is in the statement, so that each has a plan of its own.
    fn add_to(&self, query: &mut QueryBuilder<Postgres>) {
        let Self { actor, action, gallery, subject, model, from, to } = self;
        if let Some(actor) = actor {
            let key = Uuid::try_parse(actor).ok();
            query.push(" and (a.actor = ").push_bind(actor.clone());
            query.push(" or a.key_id = ").push_bind(key).push(")");
        }
        if let Some(action) = action {
            query.push(" and (a.action = ").push_bind(action.clone());
            query.push(" or starts_with(a.action, ").push_bind(format!("{action}.")).push("))");
        }
        if let Some(gallery) = gallery {
            query.push(" and a.galleries @> ").push_bind(vec![gallery.0]);
        }
        if let Some(subject) = subject {
            // The second for the index, which is of those alone.
            query.push(" and a.subjects @> ").push_bind(vec![subject.0]).push(" and a.subjects <> '{}'");
        }
        if let Some(model) = model {
            query.push(" and a.model_id = ").push_bind(model.0);
        }
        if let Some(from) = from {
            query.push(" and a.at >= ").push_bind(*from);
        }
        if let Some(to) = to {
            query.push(" and a.at < ").push_bind(*to);
        }
    }
}

impl Audit {
    /// The entries of the scope, latest first, sealed or not.
    pub async fn list(&self, filter: &Filter, request: PageRequest) -> Result<Page<Listed>, AuditError> {
        let mut query = QueryBuilder::new(concat!(
            "select a.position, a.hash, null::bytea as previous, m.name as model, ",
            content!(),
            " from audit a left join models m on m.id = a.model_id where a.id < "
        ));
        query.push_bind(request.before());
        filter.add_to(&mut query);
        if let Some(galleries) = self.scope.galleries() {
            let galleries: Vec<Uuid> = galleries.iter().map(|gallery| gallery.0).collect();
            query.push(" and a.galleries <> '{}' and a.galleries <@ ").push_bind(galleries);
        }
        query.push(" order by a.id desc limit ").push_bind(request.rows_to_fetch());
        let entries: Vec<Listed> = query.build_query_as().fetch_all(&self.pool.cancellable()).await?;
        Ok(request.page(entries, |entry| entry.record.id))
    }

    /// The next entries of the chain after a position that match, each with the hash of the one before, and how far was read; that
    /// stays where it is at the end of the chain.
    pub async fn read_on(&self, filter: &Filter, after: i64) -> Result<(Vec<Record>, i64), AuditError> {
        let last: Option<i64> = sqlx::query_scalar(
            "select max(position) from (select position from audit where position > $1 order by position limit $2) next",
        )
        .bind(after)
        .bind(PIECE)
        .fetch_one(&self.beside)
        .await?;
        let Some(last) = last else { return Ok((Vec::new(), after)) };
        let mut query = QueryBuilder::new(concat!(
            "select a.position, a.hash, coalesce(b.hash, case when c.dropped_position = a.position - 1 then c.dropped_hash end) \
             as previous, ",
            content!(),
            " from audit a cross join audit_chain c left join audit b on b.position = a.position - 1 where a.position > "
        ));
        query.push_bind(after).push(" and a.position <= ").push_bind(last);
        filter.add_to(&mut query);
        query.push(" order by a.position");
        Ok((query.build_query_as().fetch_all(&self.beside).await?, last))
    }
}
