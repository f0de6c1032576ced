//! Tests against a real Postgres, each in a database of its own.

mod chain;
mod gathering;
mod methods;
mod reading;

use serde_json::json;
use sqlx::AssertSqlSafe;

use super::*;
use crate::db::PageRequest;
use crate::db::testing::database;
use crate::types::{Actor, GalleryId, KeyId, ModelId, SubjectId};

/// The record of a new database.
struct Fixture {
    pools: Pools,
    audit: Audit,
}

impl Fixture {
    async fn new() -> Self {
        let pools = database().await;
        Self { audit: Audit::new(&pools, true), pools }
    }

    /// Notes as many changes, each in a transaction of its own.
    async fn change(&self, count: usize) {
        for number in 0..count {
            let entry = Entry::new(&"a test".into(), Action::GalleryChange).details(json!({"number": number}));
            self.append(&entry).await;
        }
    }

    async fn append(&self, entry: &Entry) {
        let mut transaction = self.pools.requests.begin().await.unwrap();
        append(&mut transaction, entry).await.unwrap();
        transaction.commit().await.unwrap();
    }

    /// Notes and seals as many.
    async fn sealed(&self, count: usize) {
        self.change(count).await;
        assert_eq!(self.audit.seal().await.unwrap(), count as u64);
    }

    /// As somebody does it who owns the tables.
    async fn tamper(&self, sql: &str) {
        let sql = format!(
            "set session_replication_role = replica; alter table audit disable trigger user; {sql}; \
             alter table audit enable trigger user; set session_replication_role = origin"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pools.beside).await.unwrap();
    }

    async fn refused(&self, sql: &'static str) -> bool {
        let mut transaction = self.pools.requests.begin().await.unwrap();
        let refused = sqlx::query(sql).execute(&mut *transaction).await.is_err();
        transaction.rollback().await.unwrap();
        refused
    }

    /// Where faults are, and the first of them.
    async fn faults(&self, heads: Vec<Head>) -> (Vec<i64>, String) {
        let verdict = self.audit.verify(heads).await.unwrap();
        let what = verdict.faults.first().map_or_else(String::new, |fault| fault.what.clone());
        (verdict.faults.iter().map(|fault| fault.position).collect(), what)
    }

    async fn all(&self, filter: &Filter) -> Vec<Listed> {
        self.audit.list(filter, PageRequest::new(Some(200), None).unwrap()).await.unwrap().items
    }
}
