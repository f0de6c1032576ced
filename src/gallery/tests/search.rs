use std::collections::HashMap;

use half::f16;

use super::*;

/// What is stored of an embedding.
fn halved(embedding: &Embedding) -> Vec<f64> {
    embedding.as_slice().iter().map(|v| f16::from_f32(*v).to_f64()).collect()
}

fn inner_product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn search_equals_comparing_with_everything() {
    let db = Fixture::new().await;
    let mut random = Random(4);
    let mut enrolled: Vec<(SubjectId, Vec<f64>)> = Vec::new();
    for n in 0..300 {
        let embedding = random.embedding();
        // Some subjects have one face, some ten.
        let subject = if n < 100 { format!("{}", n / 10) } else { format!("{n}") };
        enrolled.push((db.enroll("default", &subject, &embedding).await.subject_id, halved(&embedding)));
    }
    let probes: Vec<Embedding> = (0..10).map(|_| random.embedding()).collect();
    for top_k in [1, 5, 40, 1000] {
        let found = db.galleries.search(DEFAULT_GALLERY, db.model, &probes, top_k, None).await.unwrap();
        assert_eq!(found.len(), probes.len());
        for (probe, matches) in probes.iter().zip(found) {
            let mut best: HashMap<SubjectId, f64> = HashMap::new();
            for (subject, embedding) in &enrolled {
                let similarity = inner_product(embedding, &halved(probe));
                best.entry(*subject).and_modify(|best| *best = best.max(similarity)).or_insert(similarity);
            }
            let mut expected: Vec<(SubjectId, f64)> = best.into_iter().collect();
            expected.sort_by(|a, b| b.1.total_cmp(&a.1));
            expected.truncate(top_k);
            assert_eq!(matches.len(), top_k.min(210));
            for (found, (subject, similarity)) in matches.iter().zip(expected) {
                assert_eq!(found.subject_id, subject);
                assert!((f64::from(found.similarity) - similarity).abs() < 1e-5);
            }
        }
    }
}

#[tokio::test]
async fn top_k_counts_subjects_not_faces() {
    let db = Fixture::new().await;
    let mut random = Random(5);
    // More faces than one read takes, all nearer than anybody else's.
    for _ in 0..100 {
        db.enroll("default", "Ada", &random.near(&axis(0), 0.1)).await;
    }
    let exact = db.enroll("default", "Ada", &axis(0)).await;
    for n in 0..5 {
        db.enroll("default", &format!("other {n}"), &random.near(&axis(0), 1.0)).await;
    }
    let found = db.galleries.search(DEFAULT_GALLERY, db.model, &[axis(0)], 3, None).await.unwrap().remove(0);
    assert_eq!(found.len(), 3);
    assert_eq!((found[0].subject.as_str(), found[0].face_id), ("Ada", exact.face_id));
    assert!(found[1..].iter().all(|found| found.subject.starts_with("other")));
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
        let found = db.galleries.search(DEFAULT_GALLERY, db.model, &[axis(0)], top_k, None).await.unwrap().remove(0);
        let found: Vec<SubjectId> = found.into_iter().map(|found| found.subject_id).collect();
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
    let found = db.galleries.search(DEFAULT_GALLERY, db.model, &[axis(0)], 200, Some(0.9)).await.unwrap().remove(0);
    assert_eq!(found.len(), 50);
    assert!(found.iter().all(|found| found.subject.starts_with("near") && found.similarity >= 0.9));
    let none = db.galleries.search(DEFAULT_GALLERY, db.model, &[axis(9)], 5, Some(0.9)).await.unwrap();
    assert_eq!(none, [[]]);
}

#[tokio::test]
async fn galleries_and_models_never_meet() {
    let db = Fixture::new().await;
    db.galleries.create_gallery(&name("other")).await.unwrap();
    db.enroll("default", "Ada", &axis(0)).await;
    let other_model = db.registry.register("other", [2; 32], DIMENSION as u32).await.unwrap().id;
    let other_gallery = db.galleries.gallery_id("other").await.unwrap();
    let in_other_gallery = db.galleries.search(other_gallery, db.model, &[axis(0)], 5, None).await.unwrap();
    let of_other_model = db.galleries.search(DEFAULT_GALLERY, other_model, &[axis(0)], 5, None).await.unwrap();
    assert_eq!((in_other_gallery, of_other_model), (vec![vec![]], vec![vec![]]));
}

#[tokio::test]
async fn nothing_asked_is_nothing_found() {
    let db = Fixture::new().await;
    db.enroll("default", "Ada", &axis(0)).await;
    assert!(db.galleries.search(DEFAULT_GALLERY, db.model, &[], 5, None).await.unwrap().is_empty());
    assert_eq!(db.galleries.search(DEFAULT_GALLERY, db.model, &[axis(0)], 0, None).await.unwrap(), [[]]);
    let all = db.galleries.search(DEFAULT_GALLERY, db.model, &[axis(0)], usize::MAX, Some(-1.0)).await.unwrap();
    assert_eq!(all[0].len(), 1);
}
