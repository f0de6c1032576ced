use super::*;
use crate::gallery::IndexDue;

#[tokio::test]
async fn an_index_is_measured_used_and_dropped_with_its_gallery() {
    let db = Fixture::new().await;
    let mut random = Random(11);
    db.galleries.create_gallery(&name("team")).await.unwrap();
    let mut probes = Vec::new();
    for n in 0..150 {
        let embedding = random.embedding();
        db.enroll("team", &format!("{n}"), &embedding).await;
        // Of another tenant, and in the way if both shared an index.
        db.enroll("default", &format!("{n}"), &random.near(&embedding, 0.1)).await;
        probes.push(random.near(&embedding, 0.5));
    }
    let team = db.galleries.gallery_id("team").await.unwrap();
    assert_eq!(db.galleries.search_index(team, db.model).await.unwrap(), None);
    assert_eq!(db.galleries.indexes_due(db.model).await.unwrap(), []);
    let exact = db.search(team, &probes, 1, None).await;

    let stored: Vec<StoredEmbedding> = probes.iter().map(StoredEmbedding::from).collect();
    let due = IndexDue { gallery: team, templates: 150 };
    let index = db.galleries.build_index(due, db.model, &stored).await.unwrap();
    assert!(index.is_used(), "{index:?}");
    assert_eq!(db.galleries.search_index(team, db.model).await.unwrap(), Some(index.clone()));
    assert_eq!(db.search(team, &probes, 1, None).await, exact);
    let plans: Vec<String> = explain(&db, team).await;
    assert!(plans.iter().any(|line| line.contains("template_hnsw_")), "{plans:#?}");
    // Once more measures again and builds nothing.
    assert_eq!(db.galleries.build_index(due, db.model, &stored).await.unwrap(), index);

    db.galleries.drop_stale_indexes().await.unwrap();
    assert_eq!(count_indexes(&db).await, 1);
    db.erase_gallery("team").await.unwrap();
    db.galleries.drop_stale_indexes().await.unwrap();
    assert_eq!(count_indexes(&db).await, 0);
}

#[tokio::test]
async fn an_index_that_misses_is_not_used() {
    let db = Fixture::new().await;
    db.enroll("default", "Ada", &axis(0)).await;
    // Nothing to measure with: nothing is known of its recall.
    let due = IndexDue { gallery: DEFAULT_GALLERY, templates: 1 };
    let index = db.galleries.build_index(due, db.model, &[]).await.unwrap();
    assert!(!index.is_used());
    assert_eq!(db.search(DEFAULT_GALLERY, &[axis(0)], 1, None).await[0].len(), 1);
}

/// How Postgres would search a gallery by its index.
async fn explain(db: &Fixture, gallery: GalleryId) -> Vec<String> {
    let mut connection = db.pool.acquire().await.unwrap();
    // Of a few rows a scan is cheaper.
    sqlx::query("set enable_seqscan = off").execute(&mut *connection).await.unwrap();
    sqlx::query("set enable_bitmapscan = off").execute(&mut *connection).await.unwrap();
    sqlx::query("set enable_sort = off").execute(&mut *connection).await.unwrap();
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "explain select subject_id from templates where model_id = '{}' and gallery_id = '{}' \
         order by (embedding::halfvec({DIMENSION})) <#> '[{}]'::halfvec({DIMENSION}) limit 5",
        db.model.0,
        gallery.0,
        vec!["0.1"; DIMENSION].join(",")
    )))
    .fetch_all(&mut *connection)
    .await
    .unwrap()
}

async fn count_indexes(db: &Fixture) -> i64 {
    sqlx::query_scalar("select count(*) from pg_class where relname like 'template\\_hnsw\\_%'")
        .fetch_one(&db.pool)
        .await
        .unwrap()
}
