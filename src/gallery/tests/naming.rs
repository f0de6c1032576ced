use serde_json::json;

use super::*;

const ODD_NAMES: [&str; 10] = [
    "Ada",
    "ada",
    "Анна Ахматова",
    "渡辺 直美",
    "👩‍🚀",
    "100%_\\",
    "'; drop table subjects; --",
    "\"quoted\" $1",
    "..",
    "a/b?c=d&e#f",
];

fn renamed_to(new: &str) -> GalleryChange {
    GalleryChange { name: Some(name(new)), ..GalleryChange::default() }
}

#[tokio::test]
async fn any_name_is_kept_as_it_is() {
    let db = Fixture::new().await;
    let long = "é".repeat(255);
    for odd in ODD_NAMES.into_iter().chain([long.as_str()]) {
        let gallery = db.galleries.create_gallery(&name(odd)).await.unwrap();
        assert_eq!(gallery.name, odd);
        let subject = db.galleries.create_subject(odd, &name(odd), &Metadata::default()).await.unwrap();
        assert_eq!((subject.name.as_str(), subject.gallery.as_str()), (odd, odd));
        assert_eq!(db.galleries.subject(odd, odd).await.unwrap(), subject);
        let enrolled = db.enroll(odd, odd, &axis(0)).await;
        assert!(!enrolled.subject_created);
        assert_eq!(enrolled.subject_id, subject.id);
    }
    // Nothing was taken for a pattern.
    let none = db.galleries.subject("default", "%").await;
    assert!(matches!(none, Err(GalleryError::SubjectNotFound(_))));
}

#[tokio::test]
async fn unknown_names_are_not_found() {
    let db = Fixture::new().await;
    for unknown in ["nobody", "", "a\0b", &"x".repeat(10_000), &Uuid::now_v7().to_string()] {
        assert!(matches!(db.galleries.gallery(unknown).await, Err(GalleryError::GalleryNotFound(_))));
        assert!(matches!(db.galleries.subject("default", unknown).await, Err(GalleryError::SubjectNotFound(_))));
        assert!(matches!(db.erase_subject("default", unknown).await, Err(GalleryError::SubjectNotFound(_))));
        assert!(matches!(db.galleries.gallery_id(unknown).await, Err(GalleryError::GalleryNotFound(_))));
        let enrolled = db.enroll_as(OnDoubt::Warn, unknown, "Ada", &axis(0)).await;
        assert!(matches!(enrolled, Err(GalleryError::GalleryNotFound(_))));
    }
    assert_eq!(db.rows("subjects").await, 0);
}

#[tokio::test]
async fn an_id_wins_over_a_name() {
    let db = Fixture::new().await;
    let ada = db.galleries.create_subject("default", &name("Ada"), &Metadata::default()).await.unwrap();
    assert_eq!(db.galleries.subject("default", &ada.id.to_string()).await.unwrap(), ada);
    // A name that is an id would never be found, so nobody gets it.
    let shadow = name(&ada.id.to_string());
    let created = db.galleries.create_subject("default", &shadow, &Metadata::default()).await;
    assert!(matches!(created, Err(GalleryError::DuplicateSubject(_))));
    let bob = db.galleries.create_subject("default", &name("Bob"), &Metadata::default()).await.unwrap();
    let change = SubjectChange { name: Some(shadow), ..SubjectChange::default() };
    let renamed = db.galleries.update_subject("default", &bob.id.to_string(), &change, &Expected::Any).await;
    assert!(matches!(renamed, Err(GalleryError::DuplicateSubject(_))));
    // A subject's id is good in its own gallery only.
    db.galleries.create_gallery(&name("other")).await.unwrap();
    assert!(db.galleries.subject("other", &ada.id.to_string()).await.is_err());
}

#[tokio::test]
async fn a_gallery_cannot_be_called_as_another_is_numbered() {
    let db = Fixture::new().await;
    let (a, b) =
        (db.galleries.create_gallery(&name("a")).await.unwrap(), db.galleries.create_gallery(&name("b")).await);
    for spelling in [a.id.to_string(), a.id.0.simple().to_string().to_uppercase(), a.id.0.urn().to_string()] {
        let created = db.galleries.create_gallery(&name(&spelling)).await;
        assert!(matches!(created, Err(GalleryError::GalleryNameIsId(name)) if name == spelling));
        let renamed = db.galleries.update_gallery("b", &renamed_to(&spelling), &Expected::Any).await;
        assert!(matches!(renamed, Err(GalleryError::GalleryNameIsId(_))));
    }
    assert_eq!(db.galleries.find_gallery(&a.id.to_string()).await.unwrap(), a);
    assert_eq!(db.galleries.find_gallery("b").await.unwrap(), b.unwrap());
}

const COMPOSED: &str = "Jos\u{e9}";
const DECOMPOSED: &str = "Jose\u{301}";

#[tokio::test]
async fn names_are_found_in_either_spelling() {
    let db = Fixture::new().await;
    for (written, asked) in [(COMPOSED, DECOMPOSED), ("A\u{30a}sa", "\u{212b}sa")] {
        let gallery = db.galleries.create_gallery(&name(written)).await.unwrap();
        assert_eq!(db.galleries.find_gallery(asked).await.unwrap(), gallery);
        let subject = db.galleries.create_subject(asked, &name(written), &Metadata::default()).await.unwrap();
        assert_eq!(db.galleries.subject(asked, asked).await.unwrap(), subject);
        let enrolled = db.enroll(asked, asked, &axis(0)).await;
        assert_eq!((enrolled.subject_id, enrolled.subject_created), (subject.id, false));
        let again = db.galleries.create_subject(asked, &name(asked), &Metadata::default()).await;
        assert!(matches!(again, Err(GalleryError::DuplicateSubject(_))));
    }
}

#[tokio::test]
async fn stored_names_are_brought_into_one_spelling() {
    let db = Fixture::new().await;
    let twice = "e\u{301}e\u{301}";
    let store = async |table: &str, gallery: Option<Uuid>, name: &str| -> Uuid {
        let id = Uuid::now_v7();
        let sql = match gallery {
            Some(gallery) => format!("insert into {table} (id, name, gallery_id) values ($1, $2, '{gallery}')"),
            None => format!("insert into {table} (id, name) values ($1, $2)"),
        };
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).bind(name).execute(&db.pool).await.unwrap();
        id
    };
    // As an earlier version stored them: alone, beside the other spelling, and two of which one is written half and half.
    let (alone, taken) = (store("galleries", None, twice).await, store("galleries", None, DECOMPOSED).await);
    let owner = store("galleries", None, COMPOSED).await;
    let subject_alone = store("subjects", Some(owner), DECOMPOSED).await;
    let first = store("subjects", Some(alone), twice).await;
    let second = store("subjects", Some(alone), "\u{e9}e\u{301}").await;
    sqlx::raw_sql(include_str!("../../../migrations/0011_names_in_nfc.sql")).execute(&db.pool).await.unwrap();
    let gallery = async |asked: &str| db.galleries.find_gallery(asked).await.unwrap();
    assert_eq!((gallery(twice).await.id.0, gallery(DECOMPOSED).await.id.0), (alone, owner));
    assert_eq!(gallery(&taken.to_string()).await.name, DECOMPOSED, "it clashes, and is found by id");
    let subject = async |gallery: Uuid, asked: &str| db.galleries.subject(&gallery.to_string(), asked).await.unwrap();
    assert_eq!(subject(owner, COMPOSED).await.id.0, subject_alone);
    assert_eq!(subject(alone, twice).await.id.0, first);
    assert_eq!(subject(alone, &second.to_string()).await.id.0, second);
    // What it kept is exported as it is.
    let mut snapshot = db.galleries.snapshot(&alone.to_string()).await.unwrap();
    let names: Vec<String> =
        snapshot.next(None, false).await.unwrap().into_iter().map(|record| record.subject.name.to_string()).collect();
    assert_eq!(names, ["\u{e9}\u{e9}", "\u{e9}e\u{301}"]);
}

#[tokio::test]
async fn names_are_unique() {
    let db = Fixture::new().await;
    let galleries = &db.galleries;
    for taken in ["default", "team"] {
        let _ = galleries.create_gallery(&name("team")).await;
        let again = galleries.create_gallery(&name(taken)).await;
        assert!(matches!(again, Err(GalleryError::DuplicateGallery(name)) if name == taken));
    }
    assert!(matches!(
        galleries.update_gallery("team", &renamed_to("default"), &Expected::Any).await,
        Err(GalleryError::DuplicateGallery(_))
    ));
    for gallery in ["default", "team"] {
        galleries.create_subject(gallery, &name("Ada"), &Metadata::default()).await.unwrap();
        galleries.create_subject(gallery, &name("Bob"), &Metadata::default()).await.unwrap();
        let again = galleries.create_subject(gallery, &name("Ada"), &Metadata::default()).await;
        assert!(matches!(again, Err(GalleryError::DuplicateSubject(name)) if name == "Ada"));
        let change = SubjectChange { name: Some(name("Ada")), ..SubjectChange::default() };
        let renamed = galleries.update_subject(gallery, "Bob", &change, &Expected::Any).await;
        assert!(matches!(renamed, Err(GalleryError::DuplicateSubject(_))));
    }
}

#[tokio::test]
async fn the_default_gallery_stays() {
    let db = Fixture::new().await;
    let contents = db.galleries.gallery("default").await.unwrap();
    assert_eq!((contents.gallery.id, contents.subjects, contents.faces), (DEFAULT_GALLERY, 0, 0));
    assert_eq!(contents.gallery.name, DEFAULT_GALLERY_NAME);
    for address in ["default", &DEFAULT_GALLERY.to_string()] {
        assert!(matches!(db.erase_gallery(address).await, Err(GalleryError::DefaultGallery)));
        let renamed = db.galleries.update_gallery(address, &renamed_to("mine"), &Expected::Any).await;
        assert!(matches!(renamed, Err(GalleryError::DefaultGallery)));
    }
}

#[tokio::test]
async fn renaming_keeps_everything_else() {
    let db = Fixture::new().await;
    let gallery = db.galleries.create_gallery(&name("old")).await.unwrap();
    let enrolled = db.enroll("old", "Ada", &axis(0)).await;
    assert_eq!(db.galleries.update_gallery("old", &renamed_to("new"), &Expected::Any).await.unwrap().id, gallery.id);
    let change = SubjectChange { name: Some(name("Ada Lovelace")), ..SubjectChange::default() };
    let renamed = db.galleries.update_subject("new", "Ada", &change, &Expected::Any).await.unwrap();
    assert_eq!((renamed.id, renamed.faces), (enrolled.subject_id, 1));
    let contents = db.galleries.gallery("new").await.unwrap();
    assert_eq!((contents.subjects, contents.faces), (1, 1));
    let face = db.galleries.face(enrolled.face_id).await.unwrap();
    assert_eq!((face.subject.as_str(), face.gallery.as_str()), ("Ada Lovelace", "new"));
}

#[tokio::test]
async fn metadata_is_replaced_as_a_whole() {
    let db = Fixture::new().await;
    let first = Metadata::try_from(json!({ "floor": 3, "tags": ["α", null, 1.5e300], "nested": {"x": true} })).unwrap();
    let subject = db.galleries.create_subject("default", &name("Ada"), &first).await.unwrap();
    assert_eq!(subject.metadata, first.clone().into_object());
    let unchanged =
        db.galleries.update_subject("default", "Ada", &SubjectChange::default(), &Expected::Any).await.unwrap();
    assert_eq!(unchanged, subject);
    let second = Metadata::try_from(json!({ "floor": 4 })).unwrap();
    let change = SubjectChange { metadata: Some(second.clone()), ..SubjectChange::default() };
    let changed = db.galleries.update_subject("default", "Ada", &change, &Expected::Any).await.unwrap();
    assert_eq!(changed.metadata, second.into_object());
}

#[test]
fn metadata_that_postgres_cannot_hold_is_refused() {
    for no_object in [json!(null), json!([]), json!("text"), json!(1)] {
        assert!(matches!(Metadata::try_from(no_object), Err(GalleryError::MetadataNotObject)));
    }
    for nul in [json!({ "a": "\0" }), json!({ "\0": 1 }), json!({ "a": [{ "b": "x\0" }] })] {
        assert!(matches!(Metadata::try_from(nul), Err(GalleryError::MetadataNul)));
    }
    let large = json!({ "a": "x".repeat(Metadata::MAX_BYTES) });
    assert!(matches!(Metadata::try_from(large), Err(GalleryError::MetadataTooLarge(_))));
}

#[tokio::test]
async fn a_gallery_has_a_policy_of_its_own_or_none() {
    let db = Fixture::new().await;
    let change = |policy| GalleryChange { policy: Some(policy), ..GalleryChange::default() };
    for policy in [Some(Policy::Fpir(0.003)), Some(Policy::Fmr(1e-4)), Some(Policy::Threshold(-0.2)), None] {
        let changed = db.galleries.update_gallery("default", &change(policy), &Expected::Any).await.unwrap();
        assert_eq!(changed.policy, policy);
        assert_eq!(db.galleries.find_gallery("default").await.unwrap(), changed);
        // What is not mentioned stays.
        assert_eq!(
            db.galleries.update_gallery("default", &GalleryChange::default(), &Expected::Any).await.unwrap(),
            changed
        );
    }
    for nonsense in [Policy::Fpir(0.0), Policy::Fmr(1.0), Policy::Fmr(f64::NAN), Policy::Threshold(1.5)] {
        let refused = db.galleries.update_gallery("default", &change(Some(nonsense)), &Expected::Any).await;
        assert!(matches!(refused, Err(GalleryError::InvalidPolicy(_))), "{nonsense:?}");
    }
}
