//! Each erasure has a receipt, and it is known of which the bytes are left.

use std::time::Duration;

use super::erasure::{large, two_galleries};
use super::*;
use crate::db::PageRequest;
use crate::types::ErasureId;

async fn receipts(db: &Fixture) -> Vec<Erasure> {
    db.galleries.list_erasures(PageRequest::default()).await.unwrap().items
}

#[tokio::test]
async fn what_is_erased_at_once_has_a_receipt() {
    let (db, enrolled) = two_galleries().await;
    let team = db.galleries.gallery_id("team").await.unwrap();
    let begun = db.galleries.clock().await.unwrap();
    let (hidden, erased) = db.galleries.erase_small_subject("team", "Ada", &Expected::Any).await.unwrap().unwrap();
    let ada = db.galleries.erasure(hidden.erasure.unwrap()).await.unwrap();
    assert_eq!((ada.gallery, ada.subjects, ada.faces), (team, Some(vec![enrolled[0].subject_id.0]), None));
    assert_eq!((ada.erased, erased.faces), (erased, 2));
    assert!(ada.since < begun && ada.erased_at >= begun);
    assert_eq!((ada.rows_gone_at, ada.bytes_gone_at), (Some(ada.erased_at), None));
    let (hidden, erased) = db.galleries.erase_small_gallery("team", &Expected::Any).await.unwrap().unwrap();
    let whole = db.galleries.erasure(hidden.erasure.unwrap()).await.unwrap();
    assert_eq!((whole.gallery, whole.subjects, whole.faces, whole.erased), (team, None, None, erased));
    assert_eq!(receipts(&db).await.iter().map(|one| one.id).collect::<Vec<_>>(), [whole.id, ada.id]);
    // What was not there, and a merge, erase nothing.
    assert!(db.galleries.delete_faces(&[FaceId::new()]).await.unwrap().erasures.is_empty());
    db.enroll("default", "Bob", &axis(4)).await;
    let merged = db.galleries.merge_small_subject("default", "Ada", "Bob", &Expected::Any).await.unwrap().unwrap();
    assert_eq!((merged.0.erasure, receipts(&db).await.len()), (None, 2));
    let unknown = ErasureId::new();
    assert!(matches!(db.galleries.erasure(unknown).await, Err(GalleryError::ErasureNotFound(id)) if id == unknown));
}

#[tokio::test]
async fn what_is_erased_in_pieces_is_counted_and_its_rows_are_left_until_the_last() {
    let db = Fixture::new().await;
    large(&db, "team", 1, 650).await;
    let mut transaction = db.galleries.begin().await.unwrap();
    let hidden = db.galleries.hide_subject(&mut transaction, "team", "subject 0", &Expected::Any).await.unwrap();
    transaction.commit().await.unwrap();
    let (gallery, subject, id) = (hidden.gallery, hidden.subject.unwrap(), hidden.erasure.unwrap());
    let mut faces = Vec::new();
    loop {
        let receipt = db.galleries.erasure(id).await.unwrap();
        faces.push(receipt.erased.faces);
        if receipt.rows_gone_at.is_some() {
            assert_eq!(receipt.erased, Erased { subjects: 1, faces: 650, embeddings: 650 });
            break;
        }
        assert_eq!(db.galleries.reclaim_state().await.unwrap(), None);
        db.galleries.erase_subject_piece(gallery, subject).await.unwrap();
    }
    assert_eq!(faces, [0, 300, 600, 650]);
    assert!(db.galleries.reclaim_state().await.unwrap().is_some());
    // As it was hidden by a version that noted nothing: the job's first piece notes it.
    large(&db, "old", 1, 301).await;
    let mut transaction = db.galleries.begin().await.unwrap();
    let hidden = db.galleries.hide_gallery(&mut transaction, "old", &Expected::Any).await.unwrap();
    transaction.commit().await.unwrap();
    sqlx::query("delete from erasures where id = $1").bind(hidden.erasure.unwrap().0).execute(&db.pool).await.unwrap();
    db.erase_hidden(hidden.gallery).await.unwrap();
    let receipt = receipts(&db).await.remove(0);
    assert_eq!((receipt.gallery, receipt.erased.faces), (hidden.gallery, 301));
    assert!(receipt.rows_gone_at.is_some());
}

#[tokio::test]
async fn bytes_are_reclaimed_when_nobody_can_need_them_any_more() {
    let (db, enrolled) = two_galleries().await;
    assert_eq!(db.galleries.reclaim_state().await.unwrap(), None);
    db.erase_subject("team", "Ada").await.unwrap();
    let state = db.galleries.reclaim_state().await.unwrap().unwrap();
    assert_eq!((state.last, state.has_index), (None, false));
    // A snapshot from before.
    let mut reader = db.galleries.beside.acquire().await.unwrap();
    let begin = "begin isolation level repeatable read; select count(*) from faces";
    sqlx::raw_sql(begin).execute(&mut *reader).await.unwrap();
    let reclaim = db.galleries.begin_reclaim().await.unwrap();
    assert!(db.galleries.is_held_back(&reclaim).await.unwrap());
    // It holds the table, which is waited for only so long.
    sqlx::query("select count(*) from embeddings").execute(&mut *reader).await.unwrap();
    assert!(!db.galleries.rewrite("embeddings").await.unwrap());
    sqlx::raw_sql("rollback").execute(&mut *reader).await.unwrap();
    let mut tries = 0;
    // Of the same database, others may be at it for a moment.
    while db.galleries.is_held_back(&reclaim).await.unwrap() {
        tries += 1;
        assert!(tries < 100);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for table in reclaim.tables() {
        assert!(db.galleries.rewrite(table).await.unwrap());
    }
    // What is erased meanwhile is left for the next time.
    let late = db.galleries.delete_face(enrolled[2].face_id).await.unwrap().erasures[0];
    assert_eq!(db.galleries.finish_reclaim(&reclaim, Duration::from_secs(3)).await.unwrap().0, 1);
    let state = db.galleries.reclaim_state().await.unwrap().unwrap();
    assert_eq!(state.last.unwrap().took, Duration::from_secs(3));
    let [left, gone] = <[Erasure; 2]>::try_from(receipts(&db).await).unwrap();
    assert_eq!((left.id, left.bytes_gone_at), (late, None));
    assert!(gone.bytes_gone_at >= gone.rows_gone_at);
    // Whoever stayed is as before.
    assert_eq!(db.galleries.subject("default", "Ada").await.unwrap().faces, 1);
    let found = db.search(DEFAULT_GALLERY, &[axis(0)], 5, None).await.remove(0);
    assert_eq!(found.len(), 1);
}

#[tokio::test]
async fn who_comes_back_under_the_same_id_is_erased_again() {
    let (db, enrolled) = two_galleries().await;
    let ada = enrolled[0].subject_id;
    for _ in 0..2 {
        let (hidden, _) = db.galleries.erase_small_subject("team", "Ada", &Expected::Any).await.unwrap().unwrap();
        assert!(db.galleries.erasure(hidden.erasure.unwrap()).await.unwrap().rows_gone_at.is_some());
        let team = db.galleries.gallery_id("team").await.unwrap();
        sqlx::query("insert into subjects (id, gallery_id, name) values ($1, $2, 'Ada')")
            .bind(ada.0)
            .bind(team.0)
            .execute(&db.pool)
            .await
            .unwrap();
    }
    assert_eq!(receipts(&db).await.len(), 2);
}

#[tokio::test]
async fn a_receipt_is_closed_when_the_gallery_goes_as_well() {
    let db = Fixture::new().await;
    large(&db, "team", 1, 301).await;
    let mut transaction = db.galleries.begin().await.unwrap();
    let one = db.galleries.hide_subject(&mut transaction, "team", "subject 0", &Expected::Any).await.unwrap();
    transaction.commit().await.unwrap();
    let mut transaction = db.galleries.begin().await.unwrap();
    db.galleries.hide_gallery(&mut transaction, "team", &Expected::Any).await.unwrap();
    transaction.commit().await.unwrap();
    db.erase_hidden(one.gallery).await.unwrap();
    assert!(db.galleries.erase_subject_piece(one.gallery, one.subject.unwrap()).await.unwrap().done);
    assert!(receipts(&db).await.iter().all(|receipt| receipt.rows_gone_at.is_some()));
}

#[tokio::test]
async fn nothing_of_what_is_stored_is_sampled() {
    let (db, _) = two_galleries().await;
    sqlx::raw_sql("analyze").execute(&db.pool).await.unwrap();
    let sampled: Vec<String> = sqlx::query_scalar(
        "select tablename || '.' || attname from pg_stats where tablename in ('embeddings', 'templates', 'chip_keys', 'faces') \
         and attname in ('embedding', 'key', 'chip')",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(sampled, Vec::<String>::new());
    // What a version before let it sample is forgotten.
    sqlx::raw_sql(
        "alter table embeddings alter column embedding set statistics -1; analyze embeddings; \
        alter table embeddings alter column embedding set statistics 0",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    db.erase_subject("team", "Ada").await.unwrap();
    let reclaim = db.galleries.begin_reclaim().await.unwrap();
    db.galleries.finish_reclaim(&reclaim, Duration::ZERO).await.unwrap();
    let left: i64 =
        sqlx::query_scalar("select count(*) from pg_stats where tablename = 'embeddings' and attname = 'embedding'")
            .fetch_one(&db.pool)
            .await
            .unwrap();
    assert_eq!(left, 0);
}
