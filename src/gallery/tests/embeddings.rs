use super::*;
use crate::db::PageRequest;
use crate::types::FaceId;

#[tokio::test]
async fn another_model_is_filled_in_steps() {
    let db = Fixture::new().await;
    let mut faces: Vec<FaceId> = Vec::new();
    for n in 0..5 {
        faces.push(db.enroll("default", "Ada", &axis(n)).await.face_id);
    }
    let next = db.registry.register("next", [2; 32], 8).await.unwrap().id;
    assert_eq!(db.galleries.missing_embeddings(db.model, None).await.unwrap(), (vec![], Some(faces[4])));
    assert_eq!(db.galleries.count_missing_embeddings(next).await.unwrap(), 5);

    assert_eq!(db.galleries.missing_embeddings(next, None).await.unwrap(), (faces.clone(), Some(faces[4])));
    assert_eq!(db.galleries.missing_embeddings(next, Some(faces[2])).await.unwrap().0, faces[3..]);
    assert_eq!(db.galleries.missing_embeddings(next, Some(faces[4])).await.unwrap(), (vec![], None));
    let ReadChips { chips, .. } = db.galleries.chips_to_embed(&faces[..1]).await.unwrap();
    assert_eq!(chips, [(faces[0], db.galleries.chip(faces[0]).await.unwrap())]);

    // What is set aside is missed by nobody, until it is to be tried again.
    db.galleries.set_aside(SetAsideFrom::Embed, next, SetAsideItem::Face(faces[3]), "a reason\0").await.unwrap();
    db.galleries
        .set_aside(SetAsideFrom::Embed, next, SetAsideItem::Face(FaceId::new()), "of one that is gone")
        .await
        .unwrap();
    assert_eq!(db.galleries.count_missing_embeddings(next).await.unwrap(), 4);
    let listed = db.galleries.list_set_aside(PageRequest::new(None, None).unwrap()).await.unwrap().items;
    let [item] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!((item.face, item.work.as_str(), item.reason.as_str()), (Some(faces[3]), "embed", "a reason"));
    assert_eq!((item.model.as_str(), item.gallery.as_str()), ("next", "default"));
    assert!(db.galleries.try_again(item.id).await.unwrap());
    assert!(!db.galleries.try_again(item.id).await.unwrap());
    assert_eq!(db.galleries.count_missing_embeddings(next).await.unwrap(), 5);

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
