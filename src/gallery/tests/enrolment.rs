use serde_json::json;

use super::*;

#[tokio::test]
async fn a_face_comes_back_as_it_was_enrolled() {
    let db = Fixture::new().await;
    let subject = name("Ada");
    let metadata = Metadata::try_from(json!({ "camera": "door 3" })).unwrap();
    let embedding = axis(0);
    let new = face(db.model, "default", &subject, &metadata, &embedding);
    let enrolled = db.enroll_face(&new).await.unwrap();
    assert!(enrolled.subject_created);
    assert_eq!((enrolled.gallery_id, enrolled.gallery.as_str()), (DEFAULT_GALLERY, "default"));

    let stored = db.galleries.face(enrolled.face_id).await.unwrap();
    assert_eq!((stored.subject_id, stored.subject.as_str()), (enrolled.subject_id, "Ada"));
    let found = stored.found.unwrap();
    assert_eq!((found.bounding_box, found.landmarks), (new.bounding_box, new.landmarks));
    assert_eq!((found.detection_score, found.quality), (new.detection_score, new.quality));
    assert_eq!(stored.image_sha256.as_deref(), Some(new.image_sha256.as_slice()));
    assert_eq!(&stored.metadata, metadata.as_object());
    assert_eq!(db.galleries.chip(enrolled.face_id).await.unwrap(), new.chip);
    // The metadata is the face's, not the subject's.
    assert!(db.galleries.subject("default", "Ada").await.unwrap().metadata.is_empty());

    let second = db.enroll(&DEFAULT_GALLERY.to_string(), "Ada", &axis(1)).await;
    assert!(!second.subject_created);
    assert_eq!((second.subject_id, second.gallery.as_str()), (enrolled.subject_id, "default"));
    assert_eq!(db.galleries.subject("default", "Ada").await.unwrap().faces, 2);
}

#[tokio::test]
async fn duplicates_are_other_subjects_of_this_gallery() {
    let db = Fixture::new().await;
    let mut random = Random(1);
    let ada = random.embedding();
    db.galleries.create_gallery(&name("other")).await.unwrap();
    db.enroll("other", "Ada elsewhere", &ada).await;
    db.enroll("default", "somebody else", &random.embedding()).await;
    for _ in 0..3 {
        db.enroll("default", "Ada", &random.near(&ada, 0.1)).await;
    }

    // Her own faces are none.
    for mode in [OnDoubt::Allow, OnDoubt::Warn, OnDoubt::Reject] {
        assert_eq!(db.enroll_as(mode, "default", "Ada", &ada).await.unwrap().duplicates, []);
    }

    let allowed = db.enroll_as(OnDoubt::Allow, "default", "Ada 2", &ada).await.unwrap();
    assert_eq!(allowed.duplicates, []);
    let near = random.near(&ada, 0.2);
    let warned = db.enroll_as(OnDoubt::Warn, "default", "Ada 3", &near).await.unwrap();
    let names: Vec<&str> = warned.duplicates.iter().map(|duplicate| duplicate.subject.as_str()).collect();
    assert!(names.len() == 2 && names.contains(&"Ada") && names.contains(&"Ada 2"), "{names:?}");
    assert!(warned.duplicates[0].similarity >= warned.duplicates[1].similarity);
    assert!(warned.duplicates.iter().all(|duplicate| duplicate.similarity >= 0.9));
}

#[tokio::test]
async fn the_same_image_is_told_apart_from_the_same_person() {
    let db = Fixture::new().await;
    let (ada, eve) = (name("Ada"), name("Eve"));
    let metadata = Metadata::default();
    let embedding = axis(0);
    let again = |subject, on_duplicate| NewFace {
        on_duplicate,
        image_sha256: [7; 32],
        ..face(db.model, "default", subject, &metadata, &embedding)
    };
    assert_eq!(db.enroll_face(&again(&ada, OnDoubt::Warn)).await.unwrap().duplicates, []);
    // Her own image once more, and that of somebody else who looks like her.
    let own = db.enroll_face(&again(&ada, OnDoubt::Warn)).await.unwrap();
    assert!(matches!(&own.duplicates[..], [Duplicate { subject, same_image: true, .. }] if subject == "Ada"));
    let stolen = db.enroll_face(&again(&eve, OnDoubt::Reject)).await.unwrap_err();
    assert!(matches!(stolen, GalleryError::DuplicateFace { matches } if matches.len() == 1 && matches[0].same_image));
    let alike = db.enroll_as(OnDoubt::Warn, "default", "Eve", &axis(0)).await.unwrap();
    assert!(matches!(&alike.duplicates[..], [Duplicate { subject, same_image: false, .. }] if subject == "Ada"));
}

#[tokio::test]
async fn a_rejected_face_leaves_nothing() {
    let db = Fixture::new().await;
    let ada = db.enroll("default", "Ada", &axis(0)).await;
    let error = db.enroll_as(OnDoubt::Reject, "default", "Eve", &axis(0)).await.unwrap_err();
    match error {
        GalleryError::DuplicateFace { matches } => {
            assert_eq!(matches.len(), 1);
            assert_eq!((matches[0].subject_id, matches[0].subject.as_str()), (ada.subject_id, "Ada"));
            assert!((matches[0].similarity - 1.0).abs() < 1e-6);
        }
        other => panic!("{other}"),
    }
    assert!(matches!(db.galleries.subject("default", "Eve").await, Err(GalleryError::SubjectNotFound(_))));
    assert_eq!((db.rows("faces").await, db.rows("embeddings").await), (1, 1));
}

#[tokio::test]
async fn at_most_ten_duplicates_are_told() {
    let db = Fixture::new().await;
    let mut random = Random(2);
    for n in 0..15 {
        db.enroll("default", &format!("twin {n}"), &random.near(&axis(0), 0.1)).await;
    }
    let warned = db.enroll_as(OnDoubt::Warn, "default", "one more", &axis(0)).await.unwrap();
    assert_eq!(warned.duplicates.len(), 10);
    assert!(warned.duplicates.is_sorted_by(|a, b| a.similarity >= b.similarity));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_rejecting_at_once_one_succeeds() {
    let db = std::sync::Arc::new(Fixture::new().await);
    for round in 0..10 {
        let attempts = (0..4).map(|n| {
            let db = db.clone();
            tokio::spawn(async move {
                let subject = format!("round {round} subject {n}");
                db.enroll_as(OnDoubt::Reject, "default", &subject, &axis(round)).await
            })
        });
        let mut successes = 0;
        for attempt in attempts.collect::<Vec<_>>() {
            match attempt.await.unwrap() {
                Ok(_) => successes += 1,
                Err(GalleryError::DuplicateFace { matches }) => assert_eq!(matches.len(), 1),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(successes, 1);
    }
}

#[tokio::test]
async fn a_warning_enrolment_cannot_slip_in_beside_a_rejecting_one() {
    let db = Fixture::new().await;
    // Shares the lock of the gallery, as an enrolment that has not committed yet does.
    let mut other = db.pool.begin().await.unwrap();
    enroll::await_turn(&mut other, DEFAULT_GALLERY, OnDoubt::Warn).await.unwrap();
    // Two that do not reject go together.
    db.enroll_as(OnDoubt::Warn, "default", "Bob", &axis(1)).await.unwrap();
    let embedding = axis(0);
    let rejecting = db.enroll_as(OnDoubt::Reject, "default", "Ada", &embedding);
    let waited = tokio::time::timeout(std::time::Duration::from_millis(300), rejecting).await;
    assert!(waited.is_err(), "the rejecting enrolment did not wait");
    other.rollback().await.unwrap();
    db.enroll_as(OnDoubt::Reject, "default", "Ada", &axis(0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_faces_of_one_new_subject_at_once_make_one_subject() {
    let db = std::sync::Arc::new(Fixture::new().await);
    let enrolments = (0..20).map(|n| {
        let db = db.clone();
        tokio::spawn(async move { db.enroll("default", "Ada", &axis(n)).await })
    });
    let mut created = 0;
    for enrolment in enrolments.collect::<Vec<_>>() {
        created += u32::from(enrolment.await.unwrap().subject_created);
    }
    assert_eq!(created, 1);
    assert_eq!(db.galleries.subject("default", "Ada").await.unwrap().faces, 20);
}

#[tokio::test]
async fn embeddings_of_another_dimension_or_model_are_refused() {
    let db = Fixture::new().await;
    let wrong = Random(3).embedding_of(DIMENSION + 1);
    let error = db.enroll_as(OnDoubt::Warn, "default", "Ada", &wrong).await.unwrap_err();
    assert!(matches!(error, GalleryError::Dimension { expected: 32, found: 33 }), "{error}");
    let query = |probe| Query { probe: StoredEmbedding::from(probe), top_k: 5, min_similarity: None, except: None };
    let error = db.galleries.search(DEFAULT_GALLERY, db.model, &[query(&wrong)]).await.unwrap_err();
    assert!(matches!(error, GalleryError::Dimension { .. }), "{error}");
    let unknown = ModelId::new();
    let error = db.galleries.search(DEFAULT_GALLERY, unknown, &[query(&axis(0))]).await.unwrap_err();
    assert!(matches!(error, GalleryError::ModelNotFound(model) if model == unknown), "{error}");
    assert_eq!(db.rows("subjects").await, 0);
}
