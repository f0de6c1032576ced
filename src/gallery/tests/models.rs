//! Enrolments and the models that come and go meanwhile.

use serde_json::json;

use super::*;
use crate::registry::Purpose;

/// A second model, of 8 dimensions.
async fn next(db: &Fixture) -> ModelId {
    db.registry.register("next", [2; 32], 8).await.unwrap().id
}

async fn enroll(
    db: &Fixture,
    model: ModelId,
    own: &Embedding,
    others: &[(ModelId, Embedding)],
) -> Result<Enrolled, GalleryError> {
    let (subject, metadata) = (name("Ada"), Metadata::default());
    let face = NewFace { others, ..face(model, "default", &subject, &metadata, own) };
    db.enroll_face(&face).await
}

#[tokio::test]
async fn a_face_needs_an_embedding_of_the_active_model() {
    let db = Fixture::new().await;
    let (next, mut random) = (next(&db).await, Random(5));
    db.registry.activate_first(db.model, &"server".into()).await.unwrap();
    let small = [(next, random.embedding_of(8))];
    // That of a model that nobody wants is left out.
    enroll(&db, db.model, &axis(0), &small).await.unwrap();
    assert_eq!(db.rows("embeddings").await, 1);

    db.registry.set_secondary(next, Purpose::Promotion, &"server".into(), json!({})).await.unwrap();
    assert_eq!(missing(&db, next).await, 1);
    enroll(&db, db.model, &axis(1), &small).await.unwrap();
    assert_eq!(db.rows("embeddings").await, 3);
    let face = db.galleries.missing_embeddings(next, None).await.unwrap().0[0];
    db.galleries.store_embeddings(next, &[(face, small[0].1.clone())]).await.unwrap();
    let mut held = db.registry.hold_secondary(next).await.unwrap();
    assert_eq!(db.galleries.count_missing_within(&mut held, next).await.unwrap(), 0);
    db.registry.switch(held, next, &"server".into(), json!({})).await.unwrap();

    let error = enroll(&db, db.model, &axis(2), &[]).await.unwrap_err();
    assert!(matches!(error, GalleryError::OtherModel { active } if active == next), "{error}");
    assert_eq!(db.rows("faces").await, 2);
    // Begun by the former model, it is welcome with an embedding of the active one as well.
    enroll(&db, db.model, &axis(2), &small).await.unwrap();
    assert_eq!((db.rows("faces").await, db.galleries.count_missing_embeddings(next).await.unwrap()), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_switch_overlaps_an_enrolment() {
    let db = std::sync::Arc::new(Fixture::new().await);
    let next = next(&db).await;
    db.registry.activate_first(db.model, &"server".into()).await.unwrap();
    db.registry.set_secondary(next, Purpose::Promotion, &"server".into(), json!({})).await.unwrap();
    let (subject, metadata, own) = (name("Ada"), Metadata::default(), axis(0));
    let face = face(db.model, "default", &subject, &metadata, &own);
    let enrolment = db.galleries.begin_enrolment(&face).await.unwrap();
    let switch = {
        let db = std::sync::Arc::clone(&db);
        tokio::spawn(async move { missing(&db, next).await })
    };
    // The switch waits for the enrolment, and then sees that its face is missing.
    while !waits_for_models(&db).await {
        assert!(!switch.is_finished());
        tokio::task::yield_now().await;
    }
    enrolment.finish(&face, Vec::new()).await.unwrap().1.commit().await.unwrap();
    assert_eq!(switch.await.unwrap(), 1);
    assert_eq!(db.registry.active().await.unwrap().id, db.model);
}

/// How many faces keep the servers from switching.
async fn missing(db: &Fixture, model: ModelId) -> u64 {
    let mut held = db.registry.hold_secondary(model).await.unwrap();
    db.galleries.count_missing_within(&mut held, model).await.unwrap()
}

async fn waits_for_models(db: &Fixture) -> bool {
    sqlx::query_scalar(
        "select exists (select from pg_locks where locktype = 'advisory' and not granted \
         and database = (select oid from pg_database where datname = current_database()))",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_retired_model_leaves_nothing() {
    let db = Fixture::new().await;
    let (next, mut random) = (next(&db).await, Random(6));
    db.registry.activate_first(db.model, &"server".into()).await.unwrap();
    db.registry.set_secondary(next, Purpose::Promotion, &"server".into(), json!({})).await.unwrap();
    for n in 0..3 {
        enroll(&db, db.model, &axis(n), &[(next, random.embedding_of(8))]).await.unwrap();
    }
    db.registry.clear_secondary(next, Purpose::Promotion, &"server".into(), "a test").await.unwrap();
    let mut transaction = db.galleries.begin().await.unwrap();
    db.registry.retire(&mut transaction, next, false, &"command".into()).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(db.galleries.count_retired(next).await.unwrap(), Retirement { embeddings: 3, lost_faces: 0 });
    assert_eq!(delete_all(&db, next).await, 3);
    assert_eq!((db.rows("embeddings").await, db.rows("templates").await, db.rows("faces").await), (3, 1, 3));
    // Nobody takes it for retired that is not.
    assert_eq!(delete_all(&db, db.model).await, 0);
    // As a server leaves it that is killed at once.
    sqlx::query("update models set state = 'retired' where id = $1").bind(db.model.0).execute(&db.pool).await.unwrap();
    sqlx::query("update faces set chip = null where id = (select id from faces limit 1)")
        .execute(&db.pool)
        .await
        .unwrap();
    assert_eq!(db.galleries.count_retired(db.model).await.unwrap(), Retirement { embeddings: 3, lost_faces: 1 });
    assert_eq!(delete_all(&db, db.model).await, 3);
    assert_eq!(db.rows("templates").await, 0);
}

/// All pieces of what is left of a retired model.
async fn delete_all(db: &Fixture, model: ModelId) -> u64 {
    let (mut all, mut place) = (0, RetirementPlace::default());
    while let Some(piece) = db.galleries.erase_model_piece(model, &mut place).await.unwrap() {
        all += piece;
    }
    all
}

#[tokio::test]
async fn a_model_is_retired_in_pieces_that_no_subject_is_split_over() {
    let db = Fixture::new().await;
    let (next, mut random) = (next(&db).await, Random(16));
    db.registry.activate_first(db.model, &"server".into()).await.unwrap();
    let mut faces = Vec::new();
    for n in 0..700 {
        faces.push(db.enroll("default", &format!("subject {}", n % 350), &random.embedding()).await.face_id);
    }
    let made: Vec<_> = faces.iter().map(|face| (*face, random.embedding_of(8))).collect();
    db.galleries.store_embeddings(next, &made).await.unwrap();
    sqlx::query("delete from changes").execute(&db.pool).await.unwrap();
    sqlx::query("update models set state = 'retired' where id = $1").bind(next.0).execute(&db.pool).await.unwrap();
    let (mut pieces, mut place) = (Vec::new(), RetirementPlace::default());
    while let Some(piece) = db.galleries.erase_model_piece(next, &mut place).await.unwrap() {
        pieces.push(piece);
    }
    // 150 subjects of two faces, twice, and the rest; then a pass that finds nothing.
    assert_eq!(pieces, [300, 300, 100, 0]);
    assert_eq!((db.rows("embeddings").await, db.rows("templates").await), (700, 350));
    // Nobody has to read anything anew.
    assert_eq!(db.rows("changes").await, 0);
}
