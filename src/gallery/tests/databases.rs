//! The same SQL on databases that differ in where things are.

use super::*;
use crate::db::{Access, PoolSettings, migrate};
use crate::gallery::IndexDue;

/// What reaches pgvector's types, operators and index, on pools to `access`.
async fn enrolls_and_searches(access: Access) {
    let settings = PoolSettings { max_connections: 3, ..PoolSettings::default() };
    let pools = Pools::connect(access, settings).await.unwrap();
    migrate(&pools.beside).await.unwrap();
    let db = Fixture::on(pools).await;
    let mut random = Random(17);
    let embeddings: Vec<Embedding> = (0..30).map(|_| random.embedding()).collect();
    for (n, embedding) in embeddings.iter().enumerate() {
        // Two photos each, so that templates are means.
        db.enroll("default", &format!("{n}"), embedding).await;
        db.enroll("default", &format!("{n}"), &random.near(embedding, 0.1)).await;
    }
    let gallery = db.galleries.gallery_id("default").await.unwrap();
    let exact = db.search(gallery, &embeddings, 1, None).await;
    assert!(exact.iter().enumerate().all(|(n, hits)| *hits[0].about.name == *n.to_string()));
    let probes: Vec<StoredEmbedding> = embeddings.iter().map(StoredEmbedding::from).collect();
    let index = db.galleries.build_index(IndexDue { gallery, templates: 30 }, db.model, &probes).await.unwrap();
    assert!(index.is_used(), "{index:?}");
    assert_eq!(db.search(gallery, &embeddings, 1, None).await, exact);
    db.galleries.drop_stale_indexes().await.unwrap();
    assert_eq!(db.galleries.search_index(gallery, db.model).await.unwrap(), Some(index));
    assert!(!db.galleries.snapshot("default").await.unwrap().next(Some(db.model), false).await.unwrap().is_empty());
}

async fn with_extension_elsewhere() -> Access {
    let options = empty_database().await;
    let mut connection = <PgConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    let sql = "create schema extensions; create extension vector schema extensions";
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    options.into()
}

#[tokio::test]
async fn pgvector_may_be_in_another_schema() {
    enrolls_and_searches(with_extension_elsewhere().await).await;
}

#[tokio::test]
async fn tables_may_be_in_a_schema_of_their_own() {
    let schema = Some("Of their own".to_owned());
    enrolls_and_searches(Access { schema: schema.clone(), ..with_extension_elsewhere().await }).await;
    enrolls_and_searches(Access { schema, ..empty_database().await.into() }).await;
}

#[tokio::test]
async fn requests_may_go_through_a_pooler() {
    let access = with_extension_elsewhere().await;
    let sessions = Some(access.requests.clone());
    enrolls_and_searches(Access { sessions, schema: Some("pooled".to_owned()), ..access }).await;
}
