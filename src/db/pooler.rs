//! Whether a URL leads to a pooler that lends its connections for a transaction or a statement at a time.
//!
//! A server process of Postgres serves one connection of ours, and always the same one. Behind such a pooler several
//! share one, and one changes between several. To see that on a pooler with nothing else to do, other connections hold
//! what the first one had.

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};

use super::DbError;
use super::access::{Access, Way};

/// Connections that each hold what they are given, until the first one was seen elsewhere: a pooler that takes turns
/// among its own has to run out of those that are idle.
const HOLDERS: usize = 3;

/// Process ids by which connections were served.
#[derive(Debug, Default)]
struct Backends {
    first: Vec<i32>,
    holders: Vec<i32>,
}

impl Backends {
    fn betrays_pooler(&self) -> bool {
        let Some(home) = self.first.first() else { return false };
        self.first.iter().any(|pid| pid != home) || self.holders.contains(home)
    }
}

/// Looks, by a handful of connections which end with it.
pub(super) async fn lends_by_transaction(access: &Access, way: Way) -> Result<bool, DbError> {
    let options = access.by(way);
    let mut seen = Backends::default();
    let mut first = PgConnection::connect_with(options).await.map_err(|error| access.explain(way, error))?;
    let mut holders = Vec::new();
    let mut found = false;
    for _ in 0..HOLDERS {
        seen.first.push(backend(&mut first).await?);
        found = seen.betrays_pooler();
        if found {
            break;
        }
        // A server that has no more connections than this can be no evidence.
        let Ok(mut holder) = PgConnection::connect_with(options).await else { break };
        if let Err(error) = holder.execute("begin").await {
            // Poolers that lend by statement refuse transactions, as a violation of the protocol.
            let refused = error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("08P01"));
            return if refused { Ok(true) } else { Err(error.into()) };
        }
        seen.holders.push(backend(&mut holder).await?);
        holders.push(holder);
        found = seen.betrays_pooler();
        if found {
            break;
        }
    }
    for connection in holders.into_iter().chain([first]) {
        // Their end is all that was wanted.
        let _ = connection.close().await;
    }
    Ok(found)
}

/// The process that serves this statement. Sent in one message, which even such poolers keep together.
async fn backend(connection: &mut PgConnection) -> Result<i32, DbError> {
    Ok(connection.fetch_one("select pg_backend_pid()").await?.try_get(0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_are_shared_or_change_betray_a_pooler() {
        let seen = |first: &[i32], holders: &[i32]| Backends { first: first.to_vec(), holders: holders.to_vec() };
        assert!(!seen(&[], &[]).betrays_pooler());
        assert!(!seen(&[7, 7, 7], &[8, 9]).betrays_pooler());
        // An idle pooler gives the one that was used last.
        assert!(seen(&[7], &[7]).betrays_pooler());
        // Another took it meanwhile.
        assert!(seen(&[7, 8], &[]).betrays_pooler());
        assert!(seen(&[7, 7, 9], &[10, 11]).betrays_pooler());
    }

    #[tokio::test]
    async fn postgres_itself_is_no_pooler() {
        let access = super::super::testing::empty_database().await.into();
        assert!(!lends_by_transaction(&access, Way::Sessions).await.unwrap());
    }
}
