use super::*;

#[tokio::test]
async fn what_there_is_to_train_on() {
    let db = Fixture::new().await;
    let other = db.galleries.create_gallery(&name("other")).await.unwrap().id;
    let mut faces = Vec::new();
    for (subject, count) in [("Ada", 4), ("Bob", 2), ("Cem", 1), ("Dora", 2)] {
        for n in 0..count {
            faces.push(db.enroll("default", subject, &axis(n)).await);
        }
    }
    db.enroll("other", "Ada", &axis(0)).await;
    // Imported without chips.
    let without = [&faces[6], &faces[7]].map(|face| face.face_id.0);
    sqlx::query("update faces set chip = null where id = any($1)").bind(without).execute(&db.pool).await.unwrap();

    let stock = db.galleries.training_stock(DEFAULT_GALLERY).await.unwrap();
    assert_eq!(stock, TrainingStock { mated: 2, without_chip: 2 });
    assert_eq!(db.galleries.training_stock(GalleryId::new()).await.unwrap(), TrainingStock::default());
    let names = async |subjects| -> Vec<String> {
        let found = db.galleries.galleries_with_mated(subjects).await.unwrap();
        found.into_iter().map(|gallery| gallery.name).collect()
    };
    assert_eq!((names(2).await, names(3).await), (vec!["default".to_owned()], vec![]));

    let known = db.galleries.faces_with_chip(DEFAULT_GALLERY).await.unwrap();
    assert!(known.len() == 7 && known.is_sorted_by_key(|known| known.subject));
    assert!(known.iter().all(|known| !without.contains(&known.face.0)));
    assert_eq!(db.galleries.faces_with_chip(other).await.unwrap().len(), 1);
    let sample = db.galleries.sample_of_faces(DEFAULT_GALLERY, 10, 3).await.unwrap();
    assert_eq!(sample.len(), 5, "three of Ada, two of Bob: {sample:?}");
    assert_eq!(db.galleries.sample_of_faces(DEFAULT_GALLERY, 10, 3).await.unwrap(), sample);
    let one = db.galleries.sample_of_faces(DEFAULT_GALLERY, 1, 10).await.unwrap();
    assert!(one.len() > 1 && one.iter().all(|known| known.subject == one[0].subject));

    let asked = [faces[0].face_id, faces[6].face_id, FaceId::new()];
    let chips = db.galleries.chips_of(&asked).await.unwrap();
    assert_eq!(chips, [(faces[0].face_id, db.galleries.chip(faces[0].face_id).await.unwrap())]);
}
