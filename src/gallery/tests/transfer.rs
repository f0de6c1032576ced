use super::*;
use crate::gallery::transfer::{FaceRecord, Ids, IntakeError, Record, Stored, SubjectRecord};
use crate::types::SubjectId;

fn subject(name_: &str) -> SubjectRecord {
    SubjectRecord {
        id: Some(SubjectId::new()),
        name: name(name_),
        metadata: Metadata::default(),
        created_at: None,
        expires_at: None,
    }
}

fn record(subject: &SubjectRecord, embedding: &Embedding) -> Record {
    let embedding = Some(StoredEmbedding::from(embedding));
    let face = FaceRecord { id: Some(FaceId::new()), embedding, ..FaceRecord::default() };
    Record { subject: subject.clone(), face: Some(face) }
}

async fn store(db: &Fixture, gallery: &str, ids: Ids, records: &[Record]) -> Result<Stored, IntakeError> {
    db.galleries.intake(name(gallery), None, Some(db.model), ids).store(records.to_vec()).await
}

async fn read(db: &Fixture, gallery: &str) -> Vec<Record> {
    let mut snapshot = db.galleries.snapshot(gallery).await.unwrap();
    let mut records = Vec::new();
    loop {
        let next = snapshot.next(Some(db.model), true).await.unwrap();
        if next.is_empty() {
            return records;
        }
        records.extend(next);
    }
}

/// A snapshot of `from`, stored in the database `to` and read again.
async fn carried(from: &Fixture, to: &Fixture) -> (Vec<Record>, Vec<Record>) {
    let records = read(from, "default").await;
    store(to, "copy", Ids::Keep, &records).await.unwrap();
    (records, read(to, "copy").await)
}

#[tokio::test]
async fn what_is_stored_is_what_was_read() {
    let (db, other) = (Fixture::new().await, Fixture::new().await);
    let mut random = Random(3);
    for subject in ["Ada", "Bob", "Ada", "Cy"] {
        db.enroll("default", subject, &random.embedding()).await;
    }
    let metadata = Metadata::try_from(serde_json::json!({"badge": 7, "ü": ["\"", null]})).unwrap();
    db.galleries.create_subject("default", &name("Dee"), &metadata).await.unwrap();
    let (before, after) = carried(&db, &other).await;
    assert_eq!(before.len(), 5);
    assert_eq!(before, after);
    // Templates are made of the same embeddings.
    let templates = |pool: Pool| async move {
        let sql = "select subject_id, faces, face_id, embedding::text from templates order by subject_id";
        sqlx::query_as::<_, (uuid::Uuid, i32, Option<uuid::Uuid>, String)>(sql).fetch_all(&pool).await.unwrap()
    };
    assert_eq!(templates(db.pool.clone()).await, templates(other.pool.clone()).await);
    assert_eq!((other.rows("templates").await, other.rows("review_queue").await), (3, 3));
}

#[tokio::test]
async fn a_long_gallery_is_read_in_pieces() {
    let (db, other) = (Fixture::new().await, Fixture::new().await);
    let mut random = Random(9);
    let mut records = Vec::new();
    for n in 0..1700 {
        let subject = subject(&format!("person {n}"));
        match n % 3 {
            0 => records.push(Record { subject, face: None }),
            faces => records.extend((0..faces * 2).map(|_| record(&subject, &random.embedding()))),
        }
    }
    let stored = store(&db, "default", Ids::Keep, &records).await.unwrap();
    assert_eq!((stored.subjects_created, stored.faces, stored.embeddings), (1700, 3400 - 2, 3400 - 2));
    let (before, after) = carried(&db, &other).await;
    assert_eq!(before.len(), records.len());
    assert_eq!(before, after);
}

#[tokio::test]
async fn ids_that_are_taken_stop_the_batch() {
    let db = Fixture::new().await;
    let (ada, bob, cy) = (subject("Ada"), subject("Bob"), subject("Cy"));
    let first = [record(&ada, &axis(0)), record(&bob, &axis(1))];
    let stored = store(&db, "default", Ids::Keep, &first).await.unwrap();
    assert_eq!(stored, Stored { subjects_created: 2, faces: 2, embeddings: 2, ..Stored::default() });

    let again = [record(&cy, &axis(2)), first[1].clone()];
    let error = store(&db, "default", Ids::Keep, &again).await.unwrap_err();
    assert!(matches!(error, IntakeError::FaceExists(id) if Some(id) == first[1].face.as_ref().unwrap().id), "{error}");
    let error = store(&db, "default", Ids::Keep, &[again[0].clone(), again[0].clone()]).await.unwrap_err();
    assert!(matches!(error, IntakeError::FaceExists(_)), "{error}");
    let renamed = SubjectRecord { id: ada.id, ..subject("Somebody") };
    let error = store(&db, "default", Ids::Keep, &[record(&renamed, &axis(3))]).await.unwrap_err();
    assert!(matches!(error, IntakeError::SubjectExists { id, .. } if Some(id) == ada.id), "{error}");
    let named = subject(&ada.id.unwrap().to_string());
    let error = store(&db, "default", Ids::New, &[record(&named, &axis(3))]).await.unwrap_err();
    assert!(matches!(error, IntakeError::NameIsId { .. }), "{error}");
    assert_eq!((db.rows("faces").await, db.rows("subjects").await, db.rows("galleries").await), (2, 2, 1));

    let stored = store(&db, "default", Ids::SkipExisting, &again).await.unwrap();
    assert_eq!((stored.subjects_created, stored.faces, stored.skipped), (1, 1, 1));
    // What exists in another gallery cannot exist in this one as well, and is not left out in silence.
    let error = store(&db, "other", Ids::SkipExisting, &[again[0].clone(), first[1].clone()]).await.unwrap_err();
    assert!(matches!(&error, IntakeError::FaceElsewhere { gallery, .. } if gallery == "default"), "{error}");
    let error = store(&db, "other", Ids::Keep, &first).await.unwrap_err();
    assert!(matches!(error, IntakeError::FaceElsewhere { .. }), "{error}");
    assert_eq!(db.rows("galleries").await, 1);
    // The same names: faces are added.
    let stored = store(&db, "default", Ids::New, &again).await.unwrap();
    assert_eq!((stored.subjects_created, stored.faces, stored.skipped), (0, 2, 0));
    let stored = store(&db, "copy", Ids::New, &first).await.unwrap();
    assert_eq!((stored.subjects_created, stored.faces, stored.gallery_created), (2, 2, true));
    assert_eq!((db.rows("faces").await, db.rows("subjects").await, db.rows("templates").await), (7, 5, 5));
}

#[tokio::test]
async fn embeddings_of_a_retired_model_are_refused() {
    let db = Fixture::new().await;
    let mut intake = db.galleries.intake(name("default"), None, Some(db.model), Ids::Keep);
    intake.store(vec![record(&subject("Ada"), &axis(0))]).await.unwrap();
    // In the middle of an import.
    sqlx::query("update models set state = 'retired' where id = $1").bind(db.model.0).execute(&db.pool).await.unwrap();
    let error = intake.store(vec![record(&subject("Bob"), &axis(1))]).await.unwrap_err();
    assert!(matches!(error, IntakeError::ModelRetired), "{error}");
    assert_eq!((db.rows("faces").await, db.rows("subjects").await), (1, 1));
}

#[tokio::test]
async fn a_batch_is_stored_or_not() {
    let db = Fixture::new().await;
    let short = Embedding::normalised(vec![1.0; 8]).unwrap();
    let batch = [record(&subject("Ada"), &axis(0)), record(&subject("Bob"), &short)];
    let error = store(&db, "new", Ids::Keep, &batch).await.unwrap_err();
    assert!(matches!(error, IntakeError::Gallery(GalleryError::Dimension { expected: 32, found: 8 })), "{error}");
    assert_eq!((db.rows("faces").await, db.rows("subjects").await, db.rows("galleries").await), (0, 0, 1));

    // A gallery that was deleted between batches stays deleted.
    let mut intake = db.galleries.intake(name("new"), Some(Policy::Fpir(0.01)), Some(db.model), Ids::Keep);
    intake.store(batch[..1].to_vec()).await.unwrap();
    assert_eq!(db.galleries.find_gallery("new").await.unwrap().policy, Some(Policy::Fpir(0.01)));
    db.erase_gallery("new").await.unwrap();
    let error = intake.store(batch[..1].to_vec()).await.unwrap_err();
    assert!(matches!(error, IntakeError::Gallery(GalleryError::GalleryNotFound(_))), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn imports_at_once_share_subjects() {
    let db = Fixture::new().await;
    let imports = (0..6).map(|n: usize| {
        let intake = db.galleries.intake(name("shared"), None, Some(db.model), Ids::New);
        // Each in an order of its own.
        let names = (0..300).map(|i| subject(&format!("person {}", (i * (2 * n + 1) + n * 50) % 300)));
        let records: Vec<Record> = names.map(|subject| record(&subject, &axis(n))).collect();
        tokio::spawn(async move {
            let mut intake = intake;
            for batch in records.chunks(100) {
                intake.store(batch.to_vec()).await.unwrap();
            }
        })
    });
    for import in imports.collect::<Vec<_>>() {
        import.await.unwrap();
    }
    assert_eq!((db.rows("subjects").await, db.rows("faces").await, db.rows("templates").await), (300, 1800, 300));
    let faces: i64 = sqlx::query_scalar("select sum(faces) from templates").fetch_one(&db.pool).await.unwrap();
    assert_eq!(faces, 1800);
}

#[tokio::test]
async fn a_batch_does_not_depend_on_the_plans_of_the_one_before() {
    let db = Fixture::new().await;
    let mut random = Random(11);
    let mut intake = db.galleries.intake(name("big"), None, Some(db.model), Ids::Keep);
    // One face, then many: the triggers of a session keep their plans.
    intake.store(vec![record(&subject("Ada"), &random.embedding())]).await.unwrap();
    let mut slowest = std::time::Duration::ZERO;
    for batch in 0..4 {
        let subjects: Vec<_> = (0..1000).map(|n| subject(&format!("person {batch} {n}"))).collect();
        let records = (0..5000).map(|n| record(&subjects[n / 5], &random.embedding())).collect();
        let began = std::time::Instant::now();
        intake.store(records).await.unwrap();
        slowest = slowest.max(began.elapsed());
    }
    assert_eq!((db.rows("faces").await, db.rows("templates").await), (20_001, 4001));
    println!("the slowest batch took {slowest:?}");
    assert!(slowest < std::time::Duration::from_secs(20), "{slowest:?}");
}
