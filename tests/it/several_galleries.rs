//! Several galleries in one search.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use faceid::http::Code;
use faceid::service::answers::{Embedded, Identified, IdentifiedEmbedding};
use reqwest::multipart::Form;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{TestApp, part, photos};

/// Two galleries of one server: two people are in the one, two others in the other.
struct Two {
    a: TestApp,
    b: TestApp,
    people: Vec<(String, Vec<std::path::PathBuf>)>,
}

impl Two {
    async fn start() -> Self {
        let (a, b) = (TestApp::start().await, TestApp::start().await);
        let people = photos::people(&photos::folder("lfw100"));
        for (n, (person, files)) in people[..4].iter().enumerate() {
            let app = if n < 2 { &a } else { &b };
            app.enroll_largest(person, &photos::read(&files[0])).await;
        }
        Self { a, b, people }
    }

    fn probe(&self, person: usize) -> Vec<u8> {
        photos::read(&self.people[person].1[1])
    }

    fn both(&self) -> [&str; 2] {
        [&self.a.gallery, &self.b.gallery]
    }

    /// The answer to a photo that is looked for in both, with what else is asked.
    async fn identify(&self, photo: &[u8], asked: &[(&'static str, &'static str)]) -> Identified {
        let form = Form::new().part("image", part(photo)).text("max_faces", "1");
        let form = self.both().iter().fold(form, |form, gallery| form.text("galleries", gallery.to_string()));
        let form = asked.iter().fold(form, |form, (name, value)| form.text(*name, *value));
        let answer = self.a.post_form("/identify", form).await;
        answer.expect(StatusCode::OK);
        answer.json()
    }

    async fn set_policy(&self, gallery: &str, policy: Value) {
        let change = self.a.request(Method::PATCH, &format!("/galleries/{gallery}")).json(&json!({"policy": policy}));
        self.a.send(change).await.expect(StatusCode::OK);
    }

    async fn id(&self, gallery: &str) -> String {
        self.a.get(&format!("/galleries/{gallery}")).await.value()["id"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_face_is_found_in_whichever_gallery_it_is() {
    let two = Two::start().await;
    for (person, gallery) in [(0, &two.a.gallery), (3, &two.b.gallery)] {
        let found = two.identify(&two.probe(person), &[("top_k", "3")]).await;
        let [best, ..] = &found.faces[0].matches[..] else { panic!("{found:?}") };
        assert!(found.faces[0].known && found.faces[0].matches.len() == 3, "{found:?}");
        assert_eq!((&best.subject, best.gallery.as_ref()), (&two.people[person].0, Some(gallery)));
        assert_eq!(best.gallery_id.unwrap().to_string(), two.id(gallery).await);
        let galleries: Vec<&String> = found.decisions.iter().map(|decision| &decision.gallery).collect();
        assert_eq!(galleries, two.both());
        assert!(found.faces[0].matches[1..].is_sorted_by_key(|one| -one.similarity));
        // It is as similar as in its gallery alone.
        let alone = Form::new().part("image", part(&two.probe(person))).text("gallery", gallery.clone());
        let alone: Identified = two.a.post_form("/identify", alone).await.json();
        assert_eq!(best.similarity, alone.faces[0].matches[0].similarity);
        assert_eq!(
            (best.subject_id, best.face_id),
            (alone.faces[0].matches[0].subject_id, alone.faces[0].matches[0].face_id)
        );
    }
    let stranger = two.identify(&two.probe(5), &[]).await;
    assert!(!stranger.faces[0].known && stranger.faces[0].matches.len() == 4, "{stranger:?}");
    let missed = two.identify(&two.probe(0), &[("threshold", "1")]).await;
    assert!(!missed.faces[0].known && missed.decisions.iter().all(|one| one.decision.threshold == 1.0), "{missed:?}");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn embeddings_and_batches_are_looked_for_in_several() {
    let two = Two::start().await;
    let probe = two.probe(3);
    let embedded: Embedded = two.a.post_photo("/embed?max_faces=1", &probe).await.json();
    let body = json!({"embedding": embedded.faces[0].embedding, "galleries": two.both(), "top_k": 1});
    let found: IdentifiedEmbedding = two.a.post_json("/identify/embedding", body).await.json();
    assert!(found.known && found.decisions.len() == 2, "{found:?}");
    assert_eq!(
        (&found.matches[0].subject, found.matches[0].gallery.as_ref()),
        (&two.people[3].0, Some(&two.b.gallery))
    );
    let body = json!({"images": [STANDARD.encode(&probe), "aGVsbG8="], "galleries": two.both(), "top_k": 1});
    let answer = two.a.post_json("/identify/batch", body).await.value();
    assert_eq!(answer["results"][0]["answer"]["faces"][0]["matches"][0]["gallery"], two.b.gallery.as_str());
    assert_eq!(answer["results"][1]["problem"]["code"], "unsupported_image");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn each_gallery_decides_by_its_own_policy() {
    let two = Two::start().await;
    // Nobody is known here any more, who would be at the policy of the other.
    two.set_policy(&two.b.gallery, json!({"threshold": 1.0})).await;
    let found = two.identify(&two.probe(3), &[]).await;
    assert!(!found.faces[0].known && found.faces[0].matches[0].subject == two.people[3].0, "{found:?}");
    assert_eq!(found.decisions[1].decision.threshold, 1.0);
    assert_eq!((found.threshold, found.decision.threshold), (found.decisions[0].decision.threshold, found.threshold));
    // Everybody is known there: they come first, though less similar.
    two.set_policy(&two.a.gallery, json!({"threshold": -1.0})).await;
    let found = two.identify(&two.probe(3), &[]).await;
    let matches = &found.faces[0].matches;
    assert_eq!(
        (matches[0].gallery.as_ref(), matches[2].subject.as_str()),
        (Some(&two.a.gallery), two.people[3].0.as_str())
    );
    assert!(matches[2].similarity > matches[0].similarity && found.threshold == -1.0, "{found:?}");
    // What a request says holds for all of them.
    let found = two.identify(&two.probe(3), &[("threshold", "0.3")]).await;
    assert!(found.faces[0].known && found.faces[0].matches[0].gallery.as_ref() == Some(&two.b.gallery), "{found:?}");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_rate_of_strangers_is_that_of_all_galleries_together() {
    let two = Two::start().await;
    let found = two.identify(&two.probe(0), &[("fpir", "0.02")]).await;
    for (decision, gallery) in found.decisions.iter().zip(two.both()) {
        assert_eq!(json!(decision.decision.policy), json!({"fpir": 0.01}));
        let alone =
            Form::new().part("image", part(&two.probe(0))).text("gallery", gallery.to_owned()).text("fpir", "0.01");
        let alone: Identified = two.a.post_form("/identify", alone).await.json();
        assert_eq!(decision.decision.threshold, alone.threshold);
    }
    two.set_policy(&two.a.gallery, json!({"fpir": 0.05})).await;
    two.set_policy(&two.b.gallery, json!({"fmr": 0.001})).await;
    let found = two.identify(&two.probe(0), &[]).await;
    let policies: Vec<Value> = found.decisions.iter().map(|one| json!(one.decision.policy)).collect();
    assert_eq!(policies, [json!({"fpir": 0.025}), json!({"fmr": 0.001})]);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn who_is_in_two_galleries_is_no_riddle() {
    let two = Two::start().await;
    let (person, files) = &two.people[0];
    two.b.enroll_largest(person, &photos::read(&files[0])).await;
    let found = two.identify(&two.probe(0), &[("top_k", "2")]).await;
    let face = &found.faces[0];
    assert!(face.known && !face.ambiguous, "{face:?}");
    assert_eq!(face.matches[0].similarity, face.matches[1].similarity);
    assert!(
        face.matches.iter().all(|one| one.subject == *person) && face.matches[0].gallery != face.matches[1].gallery
    );
    // Two in one gallery are one.
    two.a.enroll_largest("the same again", &photos::read(&files[0])).await;
    let found = two.identify(&two.probe(0), &[]).await;
    assert!(!found.faces[0].known && found.faces[0].ambiguous, "{found:?}");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn one_gallery_answers_as_ever() {
    let two = Two::start().await;
    let one = two.a.post_photo("/identify", &two.probe(0)).await.value();
    assert!(one.get("decisions").is_none() && one["decision"].is_object(), "{one}");
    let best = one["faces"][0]["matches"][0].as_object().unwrap();
    assert!(!best.contains_key("gallery") && !best.contains_key("gallery_id"), "{best:?}");
    // A list of one is a list.
    let body = json!({"image": STANDARD.encode(two.probe(0)), "galleries": [two.a.gallery]});
    let listed = two.a.post_json("/identify", body).await.value();
    assert_eq!((&listed["threshold"], &listed["decision"]), (&one["threshold"], &one["decision"]));
    assert_eq!(listed["decisions"][0]["decision"], one["decision"]);
    assert_eq!(listed["faces"][0]["matches"][0]["similarity"], best["similarity"]);
}

#[tokio::test]
async fn each_gallery_is_named_once_and_instead_of_one() {
    let app = TestApp::start().await;
    let id = app.get(&format!("/galleries/{}", app.gallery)).await.value()["id"].clone();
    let ask = async |galleries: Value| {
        app.post_json("/identify/embedding", json!({"embedding": vec![1.0; 128], "galleries": galleries})).await
    };
    ask(json!(["default", app.gallery])).await.expect(StatusCode::OK);
    for galleries in
        [json!([]), json!(vec!["a"; 17]), json!(["default", "default"]), json!([app.gallery, id]), json!([""])]
    {
        let problem = ask(galleries).await.expect_problem(422, Code::InvalidField);
        assert_eq!(problem.field.as_deref(), Some("galleries"), "{}", problem.detail);
    }
    ask(json!(["default", "nowhere"])).await.expect_problem(404, Code::GalleryNotFound);
    let both = json!({"embedding": vec![1.0; 128], "gallery": "default", "galleries": ["default"]});
    let problem = app.post_json("/identify/embedding", both).await.expect_problem(422, Code::InvalidField);
    assert_eq!(problem.field.as_deref(), Some("galleries"));
}
