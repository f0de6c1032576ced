use super::*;
use crate::types::FaceId;

#[tokio::test]
async fn another_model_is_filled_in_steps() {
    let db = Fixture::new().await;
    let mut faces: Vec<FaceId> = Vec::new();
    for n in 0..5 {
        faces.push(db.enroll("default", "Ada", &axis(n)).await.face_id);
    }
    let next = db.registry.register("next", [2; 32], 8).await.unwrap().id;
    assert_eq!(db.galleries.missing_embeddings(db.model, None, 10).await.unwrap(), []);
    assert_eq!(db.galleries.count_missing_embeddings(next).await.unwrap(), 5);

    let first = db.galleries.missing_embeddings(next, None, 3).await.unwrap();
    assert_eq!(first.iter().map(|(face, _)| *face).collect::<Vec<_>>(), faces[..3]);
    assert_eq!(first[0].1, db.galleries.chip(faces[0]).await.unwrap());
    let rest = db.galleries.missing_embeddings(next, Some(faces[2]), 3).await.unwrap();
    assert_eq!(rest.iter().map(|(face, _)| *face).collect::<Vec<_>>(), faces[3..]);

    // One is deleted while its embedding is being made, one never was.
    db.galleries.delete_face(faces[1]).await.unwrap();
    let mut random = Random(7);
    let made: Vec<(FaceId, Embedding)> =
        faces.iter().copied().chain([FaceId::new()]).map(|face| (face, random.embedding_of(8))).collect();
    assert_eq!(db.galleries.store_embeddings(next, &made).await.unwrap(), 4);
    assert_eq!(db.galleries.store_embeddings(next, &made).await.unwrap(), 0);
    assert_eq!(db.galleries.store_embeddings(next, &[]).await.unwrap(), 0);
    assert_eq!(db.galleries.count_missing_embeddings(next).await.unwrap(), 0);

    // Both models answer, each with its own vectors.
    for (model, probe, face) in [(next, made[4].1.clone(), faces[4]), (db.model, axis(3), faces[3])] {
        let mut all = db.search_model(DEFAULT_GALLERY, model, std::slice::from_ref(&probe), 1, None).await;
        let found = &all[0];
        assert_eq!((found.len(), found[0].about.faces, found[0].about.face_id), (1, 4, None));
        let probes = [StoredEmbedding::from(&probe)];
        db.galleries.fill_faces(DEFAULT_GALLERY, model, &probes, &mut all).await.unwrap();
        assert_eq!(all[0][0].about.face_id, Some(face));
    }
}

#[tokio::test]
async fn only_embeddings_of_the_right_size_are_stored() {
    let db = Fixture::new().await;
    let face = db.enroll("default", "Ada", &axis(0)).await.face_id;
    let next = db.registry.register("next", [2; 32], 8).await.unwrap().id;
    let error = db.galleries.store_embeddings(next, &[(face, axis(0))]).await.unwrap_err();
    assert!(matches!(error, GalleryError::Dimension { expected: 8, found: 32 }), "{error}");
    let error = db.galleries.store_embeddings(ModelId::new(), &[(face, axis(0))]).await.unwrap_err();
    assert!(matches!(error, GalleryError::ModelNotFound(_)), "{error}");
}
