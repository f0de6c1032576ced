//! Who sees but some galleries finds nothing of the others, by whatever name or id, and learns nothing of them.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::db::PageRequest;
use crate::types::{Caller, ErasureId, KeyId, Role, Scope};

/// What a question is about: a gallery, by what it is called in the question, two subjects, a face, and something that was set aside.
struct About {
    gallery: String,
    gallery_id: GalleryId,
    subject: String,
    other: String,
    subject_id: SubjectId,
    face: FaceId,
    item: Uuid,
    erasure: ErasureId,
    model: ModelId,
}

impl About {
    /// A new gallery in the database.
    async fn there(db: &Fixture, number: usize, by_id: bool) -> Self {
        let gallery = format!("gallery {number} {by_id}");
        let gallery_id = db.galleries.create_gallery(&name(&gallery)).await.unwrap().id;
        let (subject, other) = (format!("Ada {number}"), format!("Bob {number}"));
        let ada = db.enroll(&gallery, &subject, &axis(0)).await;
        let bob = db.enroll(&gallery, &other, &axis(1)).await;
        let gone = db.enroll(&gallery, &other, &axis(1)).await.face_id;
        let erasure = db.galleries.delete_face(gone).await.unwrap().erasures[0];
        let item = SetAsideItem::Face(ada.face_id);
        db.galleries.set_aside(SetAsideFrom::Embed, db.model, item, "a test").await.unwrap();
        let item = sqlx::query_scalar("select id from quarantine where face_id = $1").bind(ada.face_id.0);
        let item = item.fetch_one(&db.pool).await.unwrap();
        let named = |by_name: String, id: Uuid| if by_id { id.to_string() } else { by_name };
        Self {
            gallery: named(gallery, gallery_id.0),
            gallery_id,
            subject: named(subject, ada.subject_id.0),
            other: named(other, bob.subject_id.0),
            subject_id: ada.subject_id,
            face: ada.face_id,
            item,
            erasure,
            model: db.model,
        }
    }

    /// Nothing that there is.
    fn nowhere(db: &Fixture, by_id: bool) -> Self {
        let (gallery_id, subject_id, other_id) = (GalleryId::new(), SubjectId::new(), SubjectId::new());
        let named = |name: &str, id: Uuid| if by_id { id.to_string() } else { name.to_owned() };
        Self {
            gallery: named("no gallery", gallery_id.0),
            gallery_id,
            subject: named("no Ada", subject_id.0),
            other: named("no Bob", other_id.0),
            subject_id,
            face: FaceId::new(),
            item: Uuid::now_v7(),
            erasure: ErasureId::new(),
            model: db.model,
        }
    }

    /// An answer without what the question had in it.
    fn without(&self, answer: &str) -> String {
        let mut answer = answer.to_owned();
        let ids = [self.gallery_id.0, self.subject_id.0, self.face.0, self.erasure.0].map(|id| id.to_string());
        for (what, placeholder) in [
            (self.gallery.as_str(), "GALLERY"),
            (self.subject.as_str(), "SUBJECT"),
            (self.other.as_str(), "OTHER"),
            (ids[0].as_str(), "GALLERY"),
            (ids[1].as_str(), "SUBJECT"),
            (ids[2].as_str(), "FACE"),
            (ids[3].as_str(), "ERASURE"),
        ] {
            answer = answer.replace(what, placeholder);
        }
        answer
    }
}

fn caller(scope: Scope) -> Caller {
    Caller::with_key(KeyId::new(), "key", Role::Admin, scope)
}

type Ask = for<'a> fn(&'a Galleries, &'a About) -> BoxFuture<'a, String>;

fn told<T, E: Debug>(answer: Result<T, E>) -> String {
    answer.map_or_else(|error| format!("{error:?}"), |_| "found".to_owned())
}

macro_rules! questions {
    ($($method:ident: |$galleries:ident, $about:ident| $answer:expr;)*) => {
        vec![$((stringify!($method), {
            let ask: Ask = |$galleries, $about| async move { $answer }.boxed();
            ask
        })),*]
    };
}

/// Of all methods that find a gallery, a subject or a face by what somebody says.
fn questions() -> Vec<(&'static str, Ask)> {
    questions! {
        gallery_id: |all, it| told(all.gallery_id(&it.gallery).await);
        find_gallery: |all, it| told(all.find_gallery(&it.gallery).await);
        gallery: |all, it| told(all.gallery(&it.gallery).await);
        snapshot: |all, it| told(all.snapshot(&it.gallery).await);
        update_gallery: |all, it| {
            let change = GalleryChange { policy: Some(Some(Policy::Threshold(0.5))), ..GalleryChange::default() };
            told(all.update_gallery(&it.gallery, &change, &Expected::Any).await)
        };
        begin_enrolment: |all, it| {
            let (subject, metadata, embedding) = (name("Cyd"), Metadata::default(), axis(2));
            told(all.begin_enrolment(&face(it.model, &it.gallery, &subject, &metadata, &embedding)).await)
        };
        intake: |all, it| {
            let subject = SubjectRecord { id: None, name: name("Cyd"), metadata: Metadata::default(), created_at: None, expires_at: None };
            let record = Record { subject, face: None };
            told(all.intake(name(&it.gallery), None, None, Ids::New).store(vec![record]).await)
        };
        owners_of_faces: |all, it| {
            let there = all.owners_of_faces(&[it.face]).await.unwrap();
            if there.is_empty() { "not".to_owned() } else { "found".to_owned() }
        };
        begin_subject: |all, it| told(all.begin_subject(&it.gallery, &name("Cyd"), &Metadata::default(), None).await);
        list_subjects: |all, it| {
            told(all.list_subjects(&it.gallery, &SubjectFilter::default(), PageRequest::default()).await)
        };
        subject: |all, it| told(all.subject(&it.gallery, &it.subject).await);
        subject_by_id: |all, it| told(all.subject_by_id(it.subject_id).await);
        update_subject: |all, it| {
            let change = SubjectChange { name: Some(name("Cyd")), ..SubjectChange::default() };
            told(all.update_subject(&it.gallery, &it.subject, &change, &Expected::Any).await)
        };
        known_subject: |all, it| told(all.known_subject(&it.gallery, &it.subject, it.model).await);
        known_face: |all, it| told(all.known_face(it.face, it.model).await);
        list_faces: |all, it| told(all.list_faces(&it.gallery, PageRequest::default()).await);
        list_faces_of: |all, it| told(all.list_faces_of(&it.gallery, &it.subject, PageRequest::default()).await);
        find_subject_in_any_case: |all, it| told(all.find_subject_in_any_case(&it.gallery, &it.subject).await);
        subject_names: |all, it| told(all.subject_names(&it.gallery).await);
        numbered_faces: |all, it| {
            told(all.numbered_faces(&it.gallery, None, NumberedPage { number: 0, size: 1 }).await)
        };
        faces_among: |all, it| told(all.faces_among(&it.gallery, &[it.face]).await);
        face: |all, it| told(all.face(it.face).await);
        chip: |all, it| told(all.chip(it.face).await);
        move_face: |all, it| told(all.move_face(it.face, &name("Cyd")).await);
        delete_face: |all, it| told(all.delete_face(it.face).await);
        delete_faces: |all, it| {
            let done = all.delete_faces(&[it.face]).await.unwrap();
            if done.found.is_empty() { format!("{done:?}") } else { "found".to_owned() }
        };
        erase_small_gallery: |all, it| told(all.erase_small_gallery(&it.gallery, &Expected::Any).await);
        hide_gallery: |all, it| {
            let mut transaction = all.begin().await.unwrap();
            told(all.hide_gallery(&mut transaction, &it.gallery, &Expected::Any).await)
        };
        erase_small_subject: |all, it| told(all.erase_small_subject(&it.gallery, &it.subject, &Expected::Any).await);
        hide_subject: |all, it| {
            let mut transaction = all.begin().await.unwrap();
            told(all.hide_subject(&mut transaction, &it.gallery, &it.subject, &Expected::Any).await)
        };
        merge_small_subject: |all, it| {
            told(all.merge_small_subject(&it.gallery, &it.subject, &it.other, &Expected::Any).await)
        };
        hide_merged: |all, it| {
            let mut transaction = all.begin().await.unwrap();
            told(all.hide_merged(&mut transaction, &it.gallery, (&it.subject, &it.other), &Expected::Any).await)
        };
        erasure: |all, it| told(all.erasure(it.erasure).await);
        try_again: |all, it| if all.try_again(it.item).await.unwrap() { "found".to_owned() } else { "not".to_owned() };
    }
}

/// Methods that take names or ids of work that goes on for all galleries, or of what was found before in the scope.
const OF_WHAT_WAS_FOUND: [&str; 22] = [
    "chips_of",
    "chips_to_embed",
    "count_hidden",
    "count_hidden_together",
    "embeddings_of",
    "encrypt_chips",
    "erase_piece_together",
    "erase_subject_piece",
    "faces_to_review",
    "find_subjects",
    "findings_about",
    "has_image",
    "missing_embeddings",
    "note_export",
    "plain_chips",
    "recheck_near",
    "set_aside",
    "set_aside_about",
    "store_embeddings",
    "templates_of",
    "wrap_keys",
    // Refuses whoever sees but some.
    "create_gallery",
];

/// The public methods of `Galleries` whose parameters name something.
fn methods_that_find() -> BTreeSet<String> {
    fn look(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, found);
                continue;
            }
            let code = std::fs::read_to_string(&path).unwrap();
            for body in code.split("\nimpl Galleries {\n").skip(1) {
                let body = body.split("\n}\n").next().unwrap();
                for method in body.split("    pub ").skip(1).map(|method| method.trim_start_matches("async ")) {
                    let Some(method) = method.strip_prefix("fn ") else { continue };
                    let (name, rest) = method.split_once('(').unwrap();
                    let parameters = rest.split("->").next().unwrap().split(" {\n").next().unwrap();
                    let names = ["&str", "Name", "FaceId", "SubjectId", "Uuid", "NewFace", "ErasureId"];
                    if names.iter().any(|name| parameters.contains(name)) {
                        found.insert(name.to_owned());
                    }
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    look(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gallery"), &mut found);
    found
}

#[test]
fn every_method_that_finds_something_is_asked() {
    let asked = questions().into_iter().map(|(method, _)| method);
    let known: BTreeSet<String> = asked.chain(OF_WHAT_WAS_FOUND).map(str::to_owned).collect();
    assert_eq!(methods_that_find(), known);
}

#[tokio::test]
async fn what_is_outside_of_the_scope_is_not_there() {
    let db = Fixture::new().await;
    let own = db.galleries.create_gallery(&name("own")).await.unwrap();
    db.enroll("own", "Eve", &axis(3)).await;
    let scoped = db.galleries.for_caller(&caller(Scope::Galleries([own.id].into())));
    for (number, (method, ask)) in questions().into_iter().enumerate() {
        for by_id in [false, true] {
            let (there, nowhere) = (About::there(&db, number, by_id).await, About::nowhere(&db, by_id));
            let of_others = there.without(&ask(&scoped, &there).await);
            let of_nobody = nowhere.without(&ask(&scoped, &nowhere).await);
            assert_eq!(of_others, of_nobody, "{method}");
            assert_ne!(of_others, "found", "{method}");
            // And nothing was done. Last, the question is one that can be answered.
            let (before, faces) = (db.galleries.gallery(&there.gallery).await.unwrap(), there.face);
            assert_eq!((before.subjects, before.faces), (2, 2), "{method}");
            assert_eq!(db.galleries.face(faces).await.unwrap().subject_id, there.subject_id, "{method}");
            assert_eq!(ask(&db.galleries, &there).await, "found", "{method}");
        }
    }
    assert_eq!(scoped.gallery("own").await.unwrap().faces, 1);
}

#[tokio::test]
async fn lists_have_what_is_in_the_scope_alone() {
    let db = Fixture::new().await;
    let others = [About::there(&db, 1, false).await, About::there(&db, 2, false).await];
    let [one, other] = [0, 1].map(|number| others[number].gallery_id);
    let all = db.galleries.list_galleries(PageRequest::default()).await.unwrap();
    assert_eq!(all.items.len(), 3);
    for scope in [vec![], vec![one], vec![one, other], vec![one, GalleryId::new()]] {
        let scoped = db.galleries.for_caller(&caller(Scope::Galleries(scope.clone().into())));
        let page = scoped.list_galleries(PageRequest::new(Some(1), None).unwrap()).await.unwrap();
        let mut listed: Vec<GalleryId> = page.items.iter().map(|gallery| gallery.id).collect();
        if let Some(cursor) = &page.next_cursor {
            let rest = scoped.list_galleries(PageRequest::new(Some(1), Some(cursor)).unwrap()).await.unwrap();
            listed.extend(rest.items.iter().map(|gallery| gallery.id));
            assert_eq!(rest.next_cursor, None);
        }
        let expected: Vec<GalleryId> = scope.iter().copied().filter(|id| [one, other].contains(id)).collect();
        assert_eq!(listed, expected);
        let set_aside = scoped.list_set_aside(PageRequest::default()).await.unwrap();
        assert_eq!(set_aside.items.len(), expected.len());
        assert!(set_aside.next_cursor.is_none());
    }
}

#[tokio::test]
async fn who_sees_some_galleries_creates_none_and_learns_of_no_id() {
    let db = Fixture::new().await;
    let own = db.galleries.create_gallery(&name("own")).await.unwrap();
    let other = db.galleries.create_gallery(&name("other")).await.unwrap();
    let scoped = db.galleries.for_caller(&caller(Scope::Galleries([own.id].into())));
    for text in ["other", "new"] {
        let refused = scoped.create_gallery(&name(text)).await;
        assert!(matches!(refused, Err(GalleryError::GalleryNotFound(named)) if named == text));
    }
    assert_eq!(db.rows("galleries").await, 3);

    let rename = async |to: String| {
        let change = GalleryChange { name: Some(name(&to)), ..GalleryChange::default() };
        scoped.update_gallery(&own.id.to_string(), &change, &Expected::Any).await
    };
    for id in [other.id.0, Uuid::now_v7()] {
        assert!(matches!(rename(id.to_string()).await, Err(GalleryError::GalleryNameIsId(_))));
    }
    // That a name is taken is all that can be learned.
    assert!(matches!(rename("other".to_owned()).await, Err(GalleryError::DuplicateGallery(_))));
    rename("renamed".to_owned()).await.unwrap();
    rename(own.id.to_string()).await.unwrap();
}
