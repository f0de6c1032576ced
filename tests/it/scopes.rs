//! A caller sees the galleries of its scope. For it others do not exist: whoever asks about them, by whatever name or id, is answered as
//! about what nobody has. Asked of the service itself, as every method of it that could tell is asked.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use faceid::app::App;
use faceid::db::PageRequest;
use faceid::gallery::{
    Expected, FindingsRequest, GalleryChange, GalleryError, NumberedPage, Policy, SubjectChange, SubjectFilter,
};
use faceid::jobs::{JobError, Lane};
use faceid::service::answers::Job;
use faceid::service::requests::{
    Batch, EnrollRequest, FaceChoice, FileBytes, IdentifyBatchRequest, IdentifyRequest, QualityDemand,
};
use faceid::service::{CompareEach, Each, Enrolled, Reference, ServiceError, Services, StartProgress};
use faceid::types::{Caller, ErasureId, FaceId, GalleryId, JobId, KeyId, Name, RequestKey, Role, Scope};
use faceid::vision::Wanted;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::datasets::{people, zipped};
use crate::support::{self, TestApp, eventually, photos};

/// What a question is about: a gallery with two subjects, of whom the first has a face, and a job that concerns it. All are called by
/// name or by id.
#[derive(Clone)]
struct About {
    gallery: String,
    subject: String,
    other: String,
    face: FaceId,
    job: JobId,
    erasure: ErasureId,
    photo: Vec<u8>,
    embedding: Vec<f32>,
}

fn name(text: &str) -> Name {
    Name::try_from(text.to_owned()).unwrap()
}

/// A request as JSON has it.
fn request<T: DeserializeOwned>(fields: Value) -> T {
    serde_json::from_value(fields).unwrap()
}

impl About {
    /// A new gallery. Its job is another one's, which is finished.
    async fn there(services: &Services, number: usize, by_id: bool, like: &Self) -> Self {
        let (gallery, subject, other) =
            (format!("gallery {number} {by_id}"), format!("Ada {number}"), format!("Bob {number}"));
        let gallery_id = services.enrolment.create_gallery(&name(&gallery)).await.unwrap().answer.id;
        let ada = services.enrolment.enroll(enrolment(&like.photo, &subject, &gallery), None).await.unwrap().answer;
        let gone = services.enrolment.enroll(enrolment(&like.photo, &subject, &gallery), None).await.unwrap().answer;
        let erasure = services.enrolment.delete_face(gone.face_id).await.unwrap().erasure;
        let bob = request(json!({"name": other, "gallery": gallery}));
        let bob = services.enrolment.create_subject(bob, None).await.unwrap().answer.answer;
        let named = |by_name: String, id: Uuid| if by_id { id.to_string() } else { by_name };
        Self {
            gallery: named(gallery, gallery_id.0),
            subject: named(subject, ada.subject_id.0),
            other: named(other, bob.id.0),
            face: ada.face_id,
            erasure,
            ..like.clone()
        }
    }

    /// Nothing that there is.
    fn nowhere(by_id: bool, like: &Self) -> Self {
        let named = |name: &str| if by_id { Uuid::now_v7().to_string() } else { name.to_owned() };
        Self {
            gallery: named("no gallery"),
            subject: named("no Ada"),
            other: named("no Bob"),
            face: FaceId::new(),
            job: JobId::new(),
            erasure: ErasureId::new(),
            ..like.clone()
        }
    }

    /// An answer without what the question had in it.
    fn without(&self, answer: &str) -> String {
        let (face, job, erasure) = (self.face.to_string(), self.job.to_string(), self.erasure.to_string());
        let words = [&self.gallery, &self.subject, &self.other, &face, &job, &erasure];
        words
            .into_iter()
            .zip('A'..)
            .fold(answer.to_owned(), |answer, (word, letter)| answer.replace(word.as_str(), &letter.to_string()))
    }
}

fn enrolment(photo: &[u8], subject: &str, gallery: &str) -> EnrollRequest {
    let image = FileBytes(photo.to_vec().into());
    let usual = EnrollRequest::new(image, name(subject), name(gallery));
    EnrollRequest { face: FaceChoice::Largest, quality: QualityDemand::Any, ..usual }
}

/// Uploads an archive of one photo.
async fn import(services: &Services, gallery: &str) -> Result<Job, ServiceError> {
    let mut dataset = services.enrolment.begin_dataset().await?;
    dataset.write(zipped(&people(0..1, 1)).into()).await?;
    Ok(services.enrolment.submit_dataset(dataset, request(json!({"gallery": gallery})), None).await?.answer.0)
}

type Ask = for<'a> fn(&'a Services, &'a About) -> BoxFuture<'a, String>;

fn told<T, E: Debug>(answer: Result<T, E>) -> String {
    answer.map_or_else(|error| format!("{error:?}"), |_| "done".to_owned())
}

macro_rules! questions {
    ($($method:ident: |$services:ident, $about:ident| $answer:expr;)*) => {
        vec![$((stringify!($method), {
            let ask: Ask = |$services, $about| async move { $answer }.boxed();
            ask
        })),*]
    };
}

fn questions() -> Vec<(&'static str, Ask)> {
    [of_collections(), of_recognition(), of_work(), of_erasure()].concat()
}

fn of_collections() -> Vec<(&'static str, Ask)> {
    questions! {
        get_gallery: |to, it| told(to.enrolment.get_gallery(&it.gallery).await);
        change_gallery: |to, it| {
            let change = GalleryChange { policy: Some(Some(Policy::Threshold(0.5))), ..GalleryChange::default() };
            told(to.enrolment.change_gallery(&it.gallery, &change, &Expected::Any).await)
        };
        create_subject: |to, it| {
            told(to.enrolment.create_subject(request(json!({"name": "Cyd", "gallery": it.gallery})), None).await)
        };
        list_subjects: |to, it| {
            let (filter, page) = (SubjectFilter::default(), PageRequest::default());
            told(to.enrolment.list_subjects(&name(&it.gallery), &filter, page).await)
        };
        get_subject: |to, it| told(to.enrolment.get_subject(&name(&it.gallery), &it.subject).await);
        change_subject: |to, it| {
            let change = SubjectChange { name: Some(name("Eve")), ..SubjectChange::default() };
            told(to.enrolment.change_subject(&name(&it.gallery), &it.other, &change, &Expected::Any).await)
        };
        list_faces: |to, it| told(to.enrolment.list_faces(&name(&it.gallery), PageRequest::default()).await);
        list_faces_of: |to, it| {
            told(to.enrolment.list_faces_of(&name(&it.gallery), &it.subject, PageRequest::default()).await)
        };
        get_face: |to, it| told(to.enrolment.get_face(it.face).await);
        export_person: |to, it| told(to.enrolment.export_person(&name(&it.gallery), &it.subject).await.map(drop));
        get_chip: |to, it| told(to.enrolment.get_chip(it.face).await);
        move_face: |to, it| told(to.enrolment.move_face(it.face, &name("Cyd")).await);
        duplicates: |to, it| {
            let page = FindingsRequest::new(None, None).unwrap();
            told(to.enrolment.duplicates(&name(&it.gallery), None, &page).await)
        };
        anomalies: |to, it| {
            let page = FindingsRequest::new(None, None).unwrap();
            told(to.enrolment.anomalies(&name(&it.gallery), None, &page).await)
        };
        find_subject_in_any_case: |to, it| {
            told(to.enrolment.find_subject_in_any_case(&name(&it.gallery), &it.subject).await)
        };
        subject_names: |to, it| told(to.enrolment.subject_names(&name(&it.gallery)).await);
        numbered_faces: |to, it| {
            let page = NumberedPage { number: 0, size: 1 };
            told(to.enrolment.numbered_faces(&name(&it.gallery), None, page).await)
        };
        faces_among: |to, it| told(to.enrolment.faces_among(&name(&it.gallery), &[it.face]).await);
        enroll: |to, it| told(to.enrolment.enroll(enrolment(&it.photo, "Cyd", &it.gallery), None).await);
    }
}

fn of_recognition() -> Vec<(&'static str, Ask)> {
    questions! {
        identify: |to, it| {
            let image = FileBytes(it.photo.clone().into());
            told(to.recognition.identify(IdentifyRequest::new(image, name(&it.gallery))).await)
        };
        // In the own gallery and in this one.
        identify: |to, it| {
            let both = request(json!(["own", it.gallery]));
            let usual = IdentifyRequest::new(FileBytes(it.photo.clone().into()), name("own"));
            told(to.recognition.identify(IdentifyRequest { gallery: None, galleries: Some(both), ..usual }).await)
        };
        identify_batch: |to, it| {
            let IdentifyRequest {
                image, gallery, galleries, top_k, max_faces, detail, min_face, min_score, threshold, fmr, fpir,
                unique_subjects, returned, aligned, crop,
            } = IdentifyRequest::new(FileBytes(it.photo.clone().into()), name(&it.gallery));
            let asked = IdentifyBatchRequest {
                images: Batch(vec![image]), gallery, galleries, top_k, max_faces, detail, min_face, min_score, threshold,
                fmr, fpir, unique_subjects, returned, aligned, crop,
            };
            told(to.recognition.identify_batch(asked).await)
        };
        identify_embedding: |to, it| {
            let asked = request(json!({"gallery": it.gallery, "embedding": it.embedding}));
            told(to.recognition.identify_embedding(asked).await)
        };
        verify_stored: |to, it| {
            let asked = request(json!({"gallery": it.gallery, "embedding": it.embedding}));
            told(to.recognition.verify_stored(Enrolled::Subject(&it.subject), asked).await)
        };
        verify_stored: |to, it| {
            let asked = request(json!({"embedding": it.embedding}));
            told(to.recognition.verify_stored(Enrolled::Face(it.face), asked).await)
        };
        identify_stored: |to, it| {
            let asked = request(json!({"gallery": it.gallery}));
            told(to.recognition.identify_stored(Enrolled::Subject(&it.subject), asked).await)
        };
        identify_stored: |to, it| told(to.recognition.identify_stored(Enrolled::Face(it.face), request(json!({}))).await);
        compare_each: |to, it| {
            let (reference, each) =
                (Reference::Face(it.face, name(&it.gallery)), Each::Embeddings(vec![it.embedding.clone()]));
            told(to.recognition.compare_each(CompareEach { reference, each, wanted: Wanted::default() }).await)
        };
        identify_stored: |to, it| {
            told(to.recognition.identify_stored(Enrolled::Face(it.face), request(json!({"gallery": it.gallery}))).await)
        };
    }
}

fn of_work() -> Vec<(&'static str, Ask)> {
    questions! {
        submit_dataset: |to, it| told(import(to, &it.gallery).await);
        retrain: |to, it| told(to.models.retrain(request(json!({"gallery": it.gallery})), None).await);
        submit_evaluation: |to, it| {
            let active = to.models.active_model().id.to_string();
            told(to.models.submit_evaluation(&active, &request(json!({"gallery": it.gallery})), None).await)
        };
        get_job: |to, it| told(to.upkeep.get_job(it.job).await);
        follow_job: |to, it| told(to.upkeep.follow_job(it.job, 0).await);
        cancel_job: |to, it| told(to.upkeep.cancel_job(it.job).await);
    }
}

fn of_erasure() -> Vec<(&'static str, Ask)> {
    questions! {
        merge_subjects: |to, it| {
            let both = (it.subject.as_str(), it.other.as_str());
            told(to.enrolment.merge_subjects(&name(&it.gallery), both, &Expected::Any).await)
        };
        // Into somebody of the own gallery.
        merge_subjects: |to, it| {
            told(to.enrolment.merge_subjects(&name("own"), ("Own", it.other.as_str()), &Expected::Any).await)
        };
        empty_gallery: |to, it| told(to.enrolment.empty_gallery(&name(&it.gallery)).await);
        delete_face: |to, it| told(to.enrolment.delete_face(it.face).await);
        delete_faces: |to, it| {
            let erased = to.enrolment.delete_faces(request(json!({"faces": [it.face]}))).await.unwrap();
            format!("{erased:?}")
        };
        delete_subject: |to, it| {
            told(to.enrolment.delete_subject(&name(&it.gallery), &it.subject, &Expected::Any).await)
        };
        delete_subjects: |to, it| {
            let asked = request(json!({"gallery": it.gallery, "subjects": [it.subject]}));
            told(to.enrolment.delete_subjects(asked).await)
        };
        get_erasure: |to, it| told(to.enrolment.get_erasure(it.erasure).await);
        delete_gallery: |to, it| told(to.enrolment.delete_gallery(&it.gallery, &Expected::Any).await);
    }
}

/// Methods that ask about no gallery, with what tests them otherwise, or why nothing has to.
const OF_NO_GALLERY: [(&str, &[&str]); 6] = [
    (
        "lists are looked at by themselves",
        &["list_galleries", "list_jobs", "list_set_aside", "list_erasures", "create_gallery"],
    ),
    ("asked of the galleries: src/gallery/tests/scope.rs", &["retry_set_aside"]),
    ("asked of the record: src/audit/tests/reading.rs", &["list", "filter", "head"]),
    (
        "what comes with the request alone",
        &["begin_dataset", "write", "compare", "detect", "embed", "embed_batch", "verify"],
    ),
    (
        "for owners, who see all",
        &[
            "active_model",
            "add_model",
            "disagreements",
            "end_shadow",
            "find_model",
            "get_model",
            "list_models",
            "promote",
            "check_promotion",
            "promote_configured",
            "retire_model",
            "rollback_model",
            "set_verdict",
            "shadow_report",
            "submit_promotion",
            "submit_rollback",
            "submit_shadow",
            "content",
            "import",
            "load",
            "manifest_for",
        ],
    ),
    (
        "the server itself",
        &[
            "check_room",
            "sign_receipts_by",
            "close",
            "describe_anew",
            "described",
            "files",
            "for_caller",
            "info",
            "keep_up",
            "note_refusal",
            "write_gathered",
            "max_model_bytes",
            "model_name",
            "new",
            "readiness",
            "record_load",
            "similarity_scale",
            "registry",
            "start",
            "try_chain",
            "work_on_jobs",
        ],
    ),
];

/// The public methods of the five parts of the service.
fn methods() -> BTreeSet<String> {
    fn look(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, found);
                continue;
            }
            let code = std::fs::read_to_string(&path).unwrap();
            for part in ["Recognition", "Enrolment", "Models", "Upkeep", "Audit"] {
                for body in code.split(&format!("\nimpl {part} {{\n")).skip(1) {
                    let body = body.split("\n}\n").next().unwrap();
                    let methods = body.split("\n    pub ").map(|method| method.trim_start_matches("async "));
                    let names = methods.filter_map(|method| method.strip_prefix("fn ")?.split('(').next());
                    found.extend(names.map(str::to_owned));
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    look(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/service"), &mut found);
    found
}

#[test]
fn every_method_of_the_service_is_asked() {
    let asked: BTreeSet<String> = questions().into_iter().map(|(method, _)| method.to_owned()).collect();
    let of_no_gallery = OF_NO_GALLERY.iter().flat_map(|(_, methods)| *methods).map(|method| (*method).to_owned());
    let known: BTreeSet<String> = asked.iter().cloned().chain(of_no_gallery).collect();
    let unasked: Vec<String> = methods().difference(&known).cloned().collect();
    assert!(unasked.is_empty(), "say of these what they tell of galleries outside of a scope: {unasked:?}");
    assert!(asked.is_subset(&methods()));
}

/// A server of this process, a gallery `own` with a job, and the service for who sees that gallery alone.
struct World {
    app: App,
    all: Services,
    scoped: Services,
    own: GalleryId,
    own_job: JobId,
    /// What all galleries are made like; its job concerns another gallery.
    like: About,
    _data: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let config = support::config(data.path().to_owned());
        let mut app = App::start(&config, &StartProgress::default()).await.unwrap();
        app.work_on_jobs(&Lane::ALL);
        let all = app.services.for_caller(&Caller::admin_key());
        let own = all.enrolment.create_gallery(&name("own")).await.unwrap().answer.id;
        let scoped = all.for_caller(&caller("own key", own));
        let photo = photos::read(&photos::people(&photos::folder("lfw100"))[0].1[0]);
        all.enrolment.enroll(enrolment(&photo, "Own", "own"), None).await.unwrap();
        let (own_job, other_job) = (import(&scoped, "own").await.unwrap(), import(&all, "new").await.unwrap());
        assert_eq!((own_job.requested_by.as_str(), other_job.requested_by.as_str()), ("own key", "admin key"));
        for job in [&own_job, &other_job] {
            let finished = async || all.upkeep.get_job(job.id).await.ok().filter(|job| job.state.is_final());
            let finished = eventually(Duration::from_secs(120), "a job is finished", finished).await;
            assert_eq!(finished.result.unwrap()["faces"], 1);
        }
        let dimension = all.recognition.info(0).unwrap().model.dimension;
        let like = About {
            gallery: String::new(),
            subject: String::new(),
            other: String::new(),
            face: FaceId::new(),
            job: other_job.id,
            erasure: ErasureId::new(),
            photo,
            embedding: (0..dimension).map(|number| 1.0 + number as f32).collect(),
        };
        Self { app, all, scoped, own, own_job: own_job.id, like, _data: data }
    }

    async fn stop(self) {
        drop((self.all, self.scoped));
        self.app.stop().await;
    }
}

fn caller(named: &str, gallery: GalleryId) -> Caller {
    Caller::with_key(KeyId::new(), named, Role::Admin, Scope::Galleries([gallery].into()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn what_is_outside_of_a_scope_does_not_exist() {
    let world = World::new().await;
    nothing_is_found(&world).await;
    lists_and_counts_are_of_the_scope(&world).await;
    nothing_is_created(&world).await;
    callers_have_keys_of_their_own(&world).await;
    world.stop().await;
}

async fn nothing_is_found(World { all, scoped, like, .. }: &World) {
    for (number, (method, ask)) in questions().into_iter().enumerate() {
        for by_id in [false, true] {
            let (there, nowhere) = (About::there(all, number, by_id, like).await, About::nowhere(by_id, like));
            let of_others = there.without(&ask(scoped, &there).await);
            let of_nobody = nowhere.without(&ask(scoped, &nowhere).await);
            assert_eq!(of_others, of_nobody, "{method}, question {number}");
            assert_ne!(of_others, "done", "{method}, question {number}");
            let before = all.enrolment.get_gallery(&there.gallery).await.unwrap().answer;
            assert_eq!((before.subjects, before.faces), (2, 1), "{method} changed something");
            // Who sees all is answered otherwise, so that the question is a good one.
            let of_owner = there.without(&ask(all, &there).await);
            let is_own = method == "merge_subjects" && of_owner == of_others;
            assert!(of_owner != of_others || is_own, "{method}, question {number}: {of_owner}");
        }
    }
}

async fn lists_and_counts_are_of_the_scope(World { all, scoped, own, own_job, like, .. }: &World) {
    assert!(all.enrolment.list_galleries(PageRequest::default()).await.unwrap().items.len() > 3);
    let galleries = scoped.enrolment.list_galleries(PageRequest::new(Some(1), None).unwrap()).await.unwrap();
    assert_eq!(galleries.items.iter().map(|gallery| gallery.id).collect::<Vec<_>>(), [*own]);
    assert_eq!(galleries.next_cursor, None);
    let own = scoped.enrolment.get_gallery("own").await.unwrap().answer;
    assert_eq!((own.subjects, own.faces), (2, 2));

    assert!(all.upkeep.list_jobs(PageRequest::default()).await.unwrap().items.len() > 5);
    let jobs = scoped.upkeep.list_jobs(PageRequest::new(Some(1), None).unwrap()).await.unwrap();
    assert_eq!((jobs.items.iter().map(|job| job.id).collect::<Vec<_>>(), jobs.next_cursor), (vec![*own_job], None));
    assert_eq!(scoped.upkeep.get_job(*own_job).await.unwrap().requested_by, "own key");
    let missing = scoped.upkeep.get_job(like.job).await;
    assert!(matches!(missing, Err(ServiceError::Job(JobError::JobNotFound(job))) if job == like.job));
    assert!(scoped.upkeep.list_set_aside(PageRequest::default()).await.unwrap().items.is_empty());

    // The same person is in other galleries as well.
    let image = FileBytes(like.photo.clone().into());
    let found = scoped.recognition.identify(IdentifyRequest::new(image, name("own"))).await.unwrap();
    let matched = found.faces.iter().flat_map(|face| &face.matches).map(|one| one.subject.clone());
    assert!(matched.clone().any(|subject| subject == "Own"));
    assert!(matched.collect::<BTreeSet<_>>().len() <= 2);
    // The gallery that is meant where none is named is one like others.
    let image = FileBytes(like.photo.clone().into());
    let unnamed = IdentifyRequest { gallery: None, ..IdentifyRequest::new(image, name("own")) };
    let refused = scoped.recognition.identify(unnamed).await;
    assert!(matches!(refused, Err(ServiceError::Gallery(GalleryError::GalleryNotFound(name))) if name == "default"));
}

async fn nothing_is_created(World { all, scoped, .. }: &World) {
    let before = all.enrolment.list_galleries(PageRequest::new(Some(200), None).unwrap()).await.unwrap().items.len();
    for gallery in ["new", "newer"] {
        for refused in
            [import(scoped, gallery).await.map(drop), scoped.enrolment.create_gallery(&name(gallery)).await.map(drop)]
        {
            let named = match refused {
                Err(ServiceError::Gallery(GalleryError::GalleryNotFound(named))) => named,
                other => panic!("{other:?}"),
            };
            assert_eq!(named, gallery);
        }
    }
    let after = all.enrolment.list_galleries(PageRequest::new(Some(200), None).unwrap()).await.unwrap().items.len();
    assert_eq!(before, after);
}

async fn callers_have_keys_of_their_own(World { all, own, .. }: &World) {
    // Even if their keys of the database have one name.
    for (number, caller) in [caller("twin", *own), caller("twin", *own), Caller::client_key()].iter().enumerate() {
        let services = all.for_caller(caller);
        let named = format!("Fay {number}");
        let key = RequestKey::new(caller, "the-same", [number as u8; 32]).unwrap();
        for repeated in [false, true] {
            let new = request(json!({"name": named, "gallery": "own"}));
            let once = services.enrolment.create_subject(new, Some(&key)).await.unwrap();
            assert_eq!((once.repeated, once.answer.answer.name.as_str()), (repeated, named.as_str()));
        }
    }
}

#[tokio::test]
async fn no_metric_names_a_gallery() {
    let app = TestApp::start().await;
    let gallery = app.get(&format!("/galleries/{}", app.gallery)).await.value();
    let subject = json!({"name": "Ada Lovelace", "gallery": app.gallery});
    let created = app.send(app.request(Method::POST, "/subjects").json(&subject)).await;
    created.expect(StatusCode::CREATED);
    for path in [format!("/subjects?gallery={}", app.gallery), "/subjects/nobody?gallery=nowhere".to_owned()] {
        app.get(&path).await;
    }
    let metrics = app.get("/metrics").await.text();
    assert!(metrics.contains("faceid_http_requests_total"));
    let id = gallery["id"].as_str().unwrap().to_owned();
    let subject = created.value()["id"].as_str().unwrap().to_owned();
    for name in [app.gallery.as_str(), &id, &subject, "Lovelace", "nowhere"] {
        assert!(!metrics.contains(name), "{name}");
    }
}
