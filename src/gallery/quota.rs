//! How many subjects a gallery may have.

use super::GalleryError;
use crate::db::Transaction;
use crate::types::GalleryId;

/// Tells these advisory locks from others. Any constant of ours serves.
const QUOTA_LOCK: i64 = 0x0071_756f_7461;

/// Refuses what the transaction has created if the gallery has more subjects by it than it may.
///
/// Of a gallery that has a limit, whoever creates subjects goes on alone from here to the commit, so that nobody counts without those
/// of another. It is the last lock that anybody takes on what others create.
pub(super) async fn check_quota(transaction: &mut Transaction, gallery: GalleryId) -> Result<(), GalleryError> {
    let most: Option<i64> = sqlx::query_scalar("select max_subjects from galleries where id = $1")
        .bind(gallery.0)
        .fetch_optional(&mut **transaction)
        .await?
        .flatten();
    let Some(most) = most else { return Ok(()) };
    let (high, low) = gallery.0.as_u64_pair();
    // Two galleries that fall on one key merely wait for each other.
    transaction.lock((high ^ low).cast_signed() ^ QUOTA_LOCK).await?;
    // A statement of its own, so that it sees what whoever held the lock before has done.
    let is_over: bool = sqlx::query_scalar(
        "select exists (select from subjects where gallery_id = $1 and erased_at is null offset $2 limit 1)",
    )
    .bind(gallery.0)
    .bind(most)
    .fetch_one(&mut **transaction)
    .await?;
    if is_over { Err(GalleryError::SubjectQuota { most: most.unsigned_abs() }) } else { Ok(()) }
}
