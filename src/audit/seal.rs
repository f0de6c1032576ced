//! Sealing: entries get their places in the chain, by one server at a time.

use sqlx::PgConnection;

use super::chain::{Hash, Record, content};
use super::{Audit, AuditError, Head};

/// Entries that are sealed in one transaction at most.
const PIECE: i64 = 2000;

/// Entries that are counted at most, of those that are not sealed.
const COUNTED: i64 = 100_000;

impl Audit {
    /// Seals all that there is, unless another server does. How many entries.
    pub async fn seal(&self) -> Result<u64, AuditError> {
        let mut sealed = 0;
        loop {
            let piece = self.seal_piece(false).await?;
            sealed += piece;
            if piece < PIECE.unsigned_abs() {
                self.count_unsealed().await?;
                return Ok(sealed);
            }
        }
    }

    /// Seals all that there is now; waits for a server that is sealing.
    pub async fn seal_waiting(&self) -> Result<(), AuditError> {
        while self.seal_piece(true).await? == PIECE.unsigned_abs() {}
        Ok(())
    }

    async fn seal_piece(&self, waits: bool) -> Result<u64, AuditError> {
        let mut transaction = self.beside.begin().await?;
        let Some((position, hash)) = hold_head(&mut transaction, waits).await? else { return Ok(0) };
        // A statement of its own, so that it sees what whoever held the head before has sealed.
        let entries: Vec<Record> = sqlx::query_as(concat!(
            "select a.position, a.hash, null::bytea as previous, ",
            content!(),
            " from audit a where a.position is null order by a.id limit $1"
        ))
        .bind(PIECE)
        .fetch_all(&mut *transaction)
        .await?;
        let (mut last, mut ids, mut positions, mut hashes) = ((position, hash), Vec::new(), Vec::new(), Vec::new());
        for mut entry in entries {
            entry.position = last.0 + 1;
            last = (entry.position, entry.seal(last.1));
            ids.push(entry.id);
            positions.push(last.0);
            hashes.push(last.1.0.to_vec());
        }
        if !ids.is_empty() {
            // The end first: no entry gets a place beyond it.
            sqlx::query("update audit_chain set position = $1, hash = $2")
                .bind(last.0)
                .bind(last.1.0.as_slice())
                .execute(&mut *transaction)
                .await?;
            sqlx::query(
                "update audit a set position = n.position, hash = n.hash \
                 from unnest($1::uuid[], $2::bigint[], $3::bytea[]) as n (id, position, hash) where a.id = n.id",
            )
            .bind(&ids)
            .bind(positions)
            .bind(hashes)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(ids.len() as u64)
    }

    /// How many entries are not sealed yet, counted up to 100,000.
    pub async fn count_unsealed(&self) -> Result<u64, AuditError> {
        let count: i64 =
            sqlx::query_scalar("select count(*) from (select from audit where position is null limit $1) unsealed")
                .bind(COUNTED)
                .fetch_one(&self.beside)
                .await?;
        metrics::gauge!("faceid_audit_unsealed").set(count as f64);
        Ok(count.unsigned_abs())
    }

    /// Where the chain ends now.
    pub async fn head(&self) -> Result<Head, AuditError> {
        let (position, hash, at): (i64, Vec<u8>, _) =
            sqlx::query_as("select position, hash, clock_timestamp() from audit_chain").fetch_one(&self.beside).await?;
        Ok(Head { position, hash: Hash::read(&hash)?, at })
    }
}

/// Keeps everybody else from changing the ends of the chain until the transaction ends, and says where it ends. `None`: somebody
/// does, who is not waited for.
pub(super) async fn hold_head(connection: &mut PgConnection, waits: bool) -> Result<Option<(i64, Hash)>, sqlx::Error> {
    let sql = match waits {
        true => "select position, hash from audit_chain for update",
        false => "select position, hash from audit_chain for update skip locked",
    };
    let head: Option<(i64, Vec<u8>)> = sqlx::query_as(sql).fetch_optional(connection).await?;
    head.map(|(position, hash)| Ok((position, Hash::read(&hash)?))).transpose()
}
