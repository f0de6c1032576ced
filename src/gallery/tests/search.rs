use super::*;
use crate::types::SubjectId;

#[tokio::test]
async fn search_equals_comparing_with_everything() {
    let db = Fixture::new().await;
    let mut random = Random(4);
    let mut enrolled: Vec<(SubjectId, StoredEmbedding)> = Vec::new();
    for n in 0..250 {
        let embedding = random.embedding();
        let subject = db.enroll("default", &format!("{n}"), &embedding).await.subject_id;
        enrolled.push((subject, StoredEmbedding::from(&embedding)));
    }
    let probes: Vec<Embedding> = (0..10).map(|_| random.embedding()).collect();
    for top_k in [1, 5, 40, 1000] {
        let found = db.search(DEFAULT_GALLERY, &probes, top_k, None).await;
        assert_eq!(found.len(), probes.len());
        for (probe, matches) in probes.iter().zip(found) {
            let probe = StoredEmbedding::from(probe);
            let mut expected: Vec<(SubjectId, f64)> =
                enrolled.iter().map(|(subject, row)| (*subject, row.similarity(&probe))).collect();
            expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            expected.truncate(top_k);
            let matches: Vec<_> = matches.iter().map(|hit| (hit.about.subject_id, hit.similarity)).collect();
            assert_eq!(matches, expected);
        }
    }
}

#[tokio::test]
async fn a_subject_is_matched_by_the_mean_of_its_faces() {
    let db = Fixture::new().await;
    let mut random = Random(8);
    let faces: Vec<Embedding> = (0..5).map(|_| random.near(&axis(0), 0.8)).collect();
    for embedding in &faces {
        db.enroll("default", "Ada", embedding).await;
    }
    let mean = (0..DIMENSION).map(|i| faces.iter().map(|face| face.as_slice()[i]).sum::<f32>() / 5.0);
    let mean = Embedding::normalised(mean.collect()).unwrap();
    let probe = random.embedding();
    let similarity = |hits: Vec<Vec<Hit>>| hits[0][0].similarity as f32;
    let found = similarity(db.search(DEFAULT_GALLERY, std::slice::from_ref(&probe), 1, None).await);
    assert!((found - mean.similarity(&probe)).abs() < 2e-3);
    // Of one face it is the face itself.
    let bob = db.enroll("default", "Bob", &probe).await;
    let best = db.search(DEFAULT_GALLERY, std::slice::from_ref(&probe), 1, None).await.remove(0).remove(0);
    assert_eq!((best.about.subject_id, best.about.face_id), (bob.subject_id, Some(bob.face_id)));
    let stored = StoredEmbedding::from(&probe);
    assert_eq!(best.similarity, stored.similarity(&stored));
}

#[tokio::test]
async fn moving_and_merging_take_templates_along() {
    let db = Fixture::new().await;
    let (right, wrong) = (axis(0), axis(1));
    let ada = db.enroll("default", "Ada", &right).await;
    let stray = db.enroll("default", "Ada", &wrong).await;
    let moved = db.galleries.move_face(stray.face_id, &name("Bob")).await.unwrap();
    assert_eq!(moved.subject, "Bob");
    let best = |probe: Embedding| {
        let db = &db;
        async move { db.search(DEFAULT_GALLERY, &[probe], 1, None).await.remove(0).remove(0) }
    };
    for (probe, subject, face) in [(&right, "Ada", ada.face_id), (&wrong, "Bob", stray.face_id)] {
        let hit = best(probe.clone()).await;
        assert_eq!((&*hit.about.name, hit.about.faces, hit.about.face_id), (subject, 1, Some(face)));
        assert_eq!(hit.similarity, 1.0);
    }
    let unknown = db.galleries.move_face(FaceId::new(), &name("Bob")).await;
    assert!(matches!(unknown, Err(GalleryError::FaceNotFound(_))));

    let (hidden, into) =
        db.galleries.merge_small_subject("default", "Ada", "Bob", &Expected::Any).await.unwrap().unwrap();
    assert!(hidden.subject.is_some_and(|bob| bob != ada.subject_id) && into == ada.subject_id);
    assert_eq!(db.galleries.subject_by_id(into).await.unwrap().faces, 2);
    let hit = best(wrong).await;
    assert_eq!((hit.about.subject_id, hit.about.faces), (ada.subject_id, 2));
    assert_eq!((db.rows("subjects").await, db.rows("templates").await), (1, 1));
    let itself = db.galleries.merge_small_subject("default", "Ada", &ada.subject_id.to_string(), &Expected::Any).await;
    assert!(matches!(itself, Err(GalleryError::SameSubject)));
    let gone = db.galleries.merge_small_subject("default", "Ada", "Bob", &Expected::Any).await;
    assert!(matches!(gone, Err(GalleryError::SubjectNotFound(_))));
}

#[tokio::test]
async fn top_k_counts_subjects_not_faces() {
    let db = Fixture::new().await;
    let mut random = Random(5);
    // More faces than one read takes, all nearer than anybody else's.
    for _ in 0..100 {
        db.enroll("default", "Ada", &random.near(&axis(0), 0.1)).await;
    }
    for n in 0..5 {
        db.enroll("default", &format!("other {n}"), &random.near(&axis(0), 1.0)).await;
    }
    let found = db.search(DEFAULT_GALLERY, &[axis(0)], 3, None).await.remove(0);
    assert_eq!(found.len(), 3);
    assert_eq!((&*found[0].about.name, found[0].about.faces), ("Ada", 100));
    assert!(found[1..].iter().all(|found| found.about.name.starts_with("other")));
    assert!(found.is_sorted_by(|a, b| a.similarity >= b.similarity));
}

#[tokio::test]
async fn equal_similarities_are_ordered_by_subject() {
    let db = Fixture::new().await;
    let mut ids = Vec::new();
    for n in 0..80 {
        ids.push(
            db.galleries.create_subject("default", &name(&format!("{n}")), &Metadata::default()).await.unwrap().id,
        );
    }
    // Enrolled the other way round, so that faces and subjects sort differently.
    for n in (0..80).rev() {
        db.enroll("default", &format!("{n}"), &axis(0)).await;
    }
    for top_k in [1, 7, 40] {
        let found = db.search(DEFAULT_GALLERY, &[axis(0)], top_k, None).await.remove(0);
        let found: Vec<SubjectId> = found.into_iter().map(|found| found.about.subject_id).collect();
        assert_eq!(found, ids[..top_k]);
    }
}

#[tokio::test]
async fn the_least_similarity_is_a_bound() {
    let db = Fixture::new().await;
    let mut random = Random(6);
    for n in 0..50 {
        db.enroll("default", &format!("near {n}"), &random.near(&axis(0), 0.2)).await;
        db.enroll("default", &format!("far {n}"), &random.near(&axis(1), 0.2)).await;
    }
    let found = db.search(DEFAULT_GALLERY, &[axis(0)], 200, Some(0.9)).await.remove(0);
    assert_eq!(found.len(), 50);
    assert!(found.iter().all(|found| found.about.name.starts_with("near") && found.similarity >= 0.9));
    let none = db.search(DEFAULT_GALLERY, &[axis(9)], 5, Some(0.9)).await;
    assert_eq!(none, [[]]);
}

#[tokio::test]
async fn galleries_and_models_never_meet() {
    let db = Fixture::new().await;
    db.galleries.create_gallery(&name("other")).await.unwrap();
    db.enroll("default", "Ada", &axis(0)).await;
    let other_model = db.registry.register("other", [2; 32], DIMENSION as u32).await.unwrap().id;
    let other_gallery = db.galleries.gallery_id("other").await.unwrap();
    let in_other_gallery = db.search(other_gallery, &[axis(0)], 5, None).await;
    let of_other_model = db.search_model(DEFAULT_GALLERY, other_model, &[axis(0)], 5, None).await;
    assert_eq!((in_other_gallery, of_other_model), (vec![vec![]], vec![vec![]]));
}

#[tokio::test]
async fn nothing_asked_is_nothing_found() {
    let db = Fixture::new().await;
    db.enroll("default", "Ada", &axis(0)).await;
    assert!(db.search(DEFAULT_GALLERY, &[], 5, None).await.is_empty());
    assert_eq!(db.search(DEFAULT_GALLERY, &[axis(0)], 0, None).await, [[]]);
    let all = db.search(DEFAULT_GALLERY, &[axis(0)], usize::MAX, Some(-1.0)).await;
    assert_eq!(all[0].len(), 1);
}
