//! Answers that are kept for a day, so that a request that is sent again is not carried out again, at whichever server.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use sqlx::FromRow;
use sqlx::postgres::PgPool;
use sqlx::types::Json;

use super::{DbError, Pool, Pools, Transaction};
use crate::types::{RequestKey, SubjectId};

/// How long a key stands for its request.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// Whether nobody was erased whom the answer `r` names, in SQL.
macro_rules! all_are_there {
    () => {
        "(not exists (select from unnest(r.subjects) as named (id) \
         where not exists (select from present_subjects s where s.id = named.id)))"
    };
}

/// The answers of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Answers {
    pool: Pool,
    /// For work in the background.
    beside: PgPool,
}

/// What was answered to the request that came with a key.
#[derive(Debug, FromRow)]
pub struct KeptAnswer {
    fingerprint: Vec<u8>,
    /// `None`: somebody whom it named was erased since.
    pub answer: Option<Value>,
}

impl KeptAnswer {
    /// Whether it was the same request.
    pub fn is_of(&self, key: &RequestKey) -> bool {
        self.fingerprint == key.fingerprint()
    }
}

impl Answers {
    pub fn new(pools: &Pools) -> Self {
        Self { pool: pools.requests.clone(), beside: pools.beside.clone() }
    }

    pub async fn find(&self, key: &RequestKey) -> Result<Option<KeptAnswer>, DbError> {
        let found = sqlx::query_as(concat!(
            "select fingerprint, case when ",
            all_are_there!(),
            " then answer end as answer from request_keys r \
             where caller = $1 and key = $2 and kept_at > now() - $3::float8 * interval '1 second'"
        ));
        let found = found.bind(key.caller()).bind(key.as_str()).bind(KEPT_FOR.as_secs_f64());
        Ok(found.fetch_optional(&self.pool).await?)
    }

    /// Forgets what is too old, and answers that came when somebody whom they name was just being erased. Rows are locked in the
    /// order of keys, as by who erases somebody (`forget_answers`).
    pub async fn prune(&self) -> Result<(), DbError> {
        let forgotten = concat!(
            "update request_keys set answer = null, subjects = '{}' where (caller, key) in \
             (select caller, key from request_keys r where not ",
            all_are_there!(),
            " order by caller, key for update)"
        );
        sqlx::query(forgotten).execute(&self.beside).await?;
        sqlx::query(
            "delete from request_keys where (caller, key) in (select caller, key from request_keys \
             where kept_at <= now() - $1::float8 * interval '1 second' order by caller, key for update)",
        )
        .bind(KEPT_FOR.as_secs_f64())
        .execute(&self.beside)
        .await?;
        Ok(())
    }
}

impl Transaction {
    /// Keeps the answer to a request, which names `subjects`, if this commits. Waits for another transaction that keeps one under
    /// the same key, and fails if that commits: then the request was carried out already, and this must be rolled back.
    pub async fn keep_answer(
        &mut self,
        key: &RequestKey,
        answer: &impl Serialize,
        subjects: &[SubjectId],
    ) -> Result<(), DbError> {
        let kept = sqlx::query(
            "insert into request_keys (caller, key, fingerprint, answer, subjects) values ($1, $2, $3, $4, $5) \
             on conflict (caller, key) do update set fingerprint = excluded.fingerprint, answer = excluded.answer, \
                 subjects = excluded.subjects, kept_at = excluded.kept_at \
                 where request_keys.kept_at <= now() - $6::float8 * interval '1 second'",
        )
        .bind(key.caller())
        .bind(key.as_str())
        .bind(key.fingerprint().as_slice())
        .bind(Json(answer))
        .bind(subjects.iter().map(|subject| subject.0).collect::<Vec<_>>())
        .bind(KEPT_FOR.as_secs_f64())
        .execute(&mut **self)
        .await?;
        match kept.rows_affected() {
            0 => Err(DbError::Locked("the request was carried out already".to_owned())),
            _ => Ok(()),
        }
    }
}
