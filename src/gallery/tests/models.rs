//! Enrolments and the models that come and go meanwhile.

use serde_json::json;

use super::*;
use crate::registry::{Actor, Purpose, Ready};

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
    db.registry.activate_first(db.model, Actor::Server).await.unwrap();
    let small = [(next, random.embedding_of(8))];
    // That of a model that nobody wants is left out.
    enroll(&db, db.model, &axis(0), &small).await.unwrap();
    assert_eq!(db.rows("embeddings").await, 1);

    db.registry.set_target(next, Purpose::Promotion, Actor::Server, json!({})).await.unwrap();
    let missing = db.registry.switch(next, Actor::Server, json!({})).await.unwrap();
    assert_eq!(missing, Ready::Missing(1));
    enroll(&db, db.model, &axis(1), &small).await.unwrap();
    assert_eq!(db.rows("embeddings").await, 3);
    let face = db.galleries.missing_embeddings(next, None, 10).await.unwrap()[0].0;
    db.galleries.store_embeddings(next, &[(face, small[0].1.clone())]).await.unwrap();
    assert!(matches!(db.registry.switch(next, Actor::Server, json!({})).await.unwrap(), Ready::Done(_)));

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
    db.registry.activate_first(db.model, Actor::Server).await.unwrap();
    db.registry.set_target(next, Purpose::Promotion, Actor::Server, json!({})).await.unwrap();
    let (subject, metadata, own) = (name("Ada"), Metadata::default(), axis(0));
    let face = face(db.model, "default", &subject, &metadata, &own);
    let enrolment = db.galleries.begin_enrolment(&face).await.unwrap();
    let switch = {
        let registry = db.registry.clone();
        tokio::spawn(async move { registry.switch(next, Actor::Server, json!({})).await.unwrap() })
    };
    // The switch waits for the enrolment, and then sees that its face is missing.
    while !waits_for_models(&db).await {
        assert!(!switch.is_finished());
        tokio::task::yield_now().await;
    }
    enrolment.finish(&face, Vec::new()).await.unwrap();
    assert_eq!(switch.await.unwrap(), Ready::Missing(1));
    assert_eq!(db.registry.active().await.unwrap().id, db.model);
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
    db.registry.activate_first(db.model, Actor::Server).await.unwrap();
    db.registry.set_target(next, Purpose::Promotion, Actor::Server, json!({})).await.unwrap();
    for n in 0..3 {
        enroll(&db, db.model, &axis(n), &[(next, random.embedding_of(8))]).await.unwrap();
    }
    db.registry.clear_target(next, Purpose::Promotion, Actor::Server, "a test").await.unwrap();
    let retired = db.registry.retire(next, false, Actor::Command).await.unwrap();
    assert_eq!((retired.embeddings, retired.lost_faces), (3, 0));
    assert_eq!((db.rows("embeddings").await, db.rows("templates").await, db.rows("faces").await), (3, 1, 3));
    // Nobody takes it for retired that is not.
    assert_eq!(db.registry.delete_embeddings(db.model).await.unwrap().embeddings, 0);
    // As a server leaves it that is killed at once.
    sqlx::query("update models set state = 'retired' where id = $1").bind(db.model.0).execute(&db.pool).await.unwrap();
    let rest = db.registry.delete_embeddings(db.model).await.unwrap();
    assert_eq!((rest.embeddings, rest.lost_faces, db.rows("templates").await), (3, 0, 0));
}
