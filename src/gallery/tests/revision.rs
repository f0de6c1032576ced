use super::*;

fn one_of(revisions: &[Revision]) -> Expected {
    Expected::OneOf(revisions.to_vec())
}

/// As a database has it that is older than revisions.
#[tokio::test]
async fn what_was_there_before_goes_by_its_id_until_it_is_changed() {
    let db = Fixture::new().await;
    let ada = db.galleries.create_subject("default", &name("Ada"), &Metadata::default()).await.unwrap();
    let team = db.galleries.create_gallery(&name("team")).await.unwrap();
    for table in ["subjects", "galleries"] {
        let forget = format!("update {table} set revision = null");
        sqlx::query(sqlx::AssertSqlSafe(forget)).execute(&db.pool).await.unwrap();
    }
    let (ada, team) = (Revision(ada.id.0), Revision(team.id.0));
    assert_eq!(db.galleries.subject("default", "Ada").await.unwrap().revision, ada);
    assert_eq!(db.galleries.find_gallery("team").await.unwrap().revision, team);

    let change = SubjectChange { name: Some(name("Ada L.")), ..SubjectChange::default() };
    let changed = db.galleries.update_subject("default", "Ada", &change, &one_of(&[team, ada])).await.unwrap();
    assert_ne!(changed.revision, ada);
    let policy = GalleryChange { policy: Some(Some(Policy::Threshold(0.5))), ..GalleryChange::default() };
    let gallery = db.galleries.update_gallery("team", &policy, &one_of(&[team])).await.unwrap();
    assert_ne!(gallery.revision, team);
    for old in [one_of(&[ada, team]), one_of(&[])] {
        let refused = db.galleries.update_subject("default", "Ada L.", &SubjectChange::default(), &old).await;
        assert!(matches!(refused, Err(GalleryError::OtherRevision)), "{refused:?}");
        let refused = db.galleries.erase_small_subject("default", "Ada L.", &old).await;
        assert!(matches!(refused, Err(GalleryError::OtherRevision)), "{refused:?}");
        let refused = db.galleries.erase_small_gallery("team", &old).await;
        assert!(matches!(refused, Err(GalleryError::OtherRevision)), "{refused:?}");
        let mut transaction = db.galleries.begin().await.unwrap();
        let refused = db.galleries.hide_subject(&mut transaction, "default", "Ada L.", &old).await;
        assert!(matches!(refused, Err(GalleryError::OtherRevision)), "{refused:?}");
        let refused = db.galleries.hide_gallery(&mut transaction, "team", &old).await;
        assert!(matches!(refused, Err(GalleryError::OtherRevision)), "{refused:?}");
    }
    assert_eq!(db.galleries.subject("default", "Ada L.").await.unwrap(), changed);
    assert!(db.galleries.erase_small_gallery("team", &one_of(&[gallery.revision])).await.unwrap().is_some());
    assert!(
        db.galleries.erase_small_subject("default", "Ada L.", &one_of(&[changed.revision])).await.unwrap().is_some()
    );
}
