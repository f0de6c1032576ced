//! Duplicates and anomalies of a gallery, and how they are mended.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use faceid::http::Code;
use faceid::service::answers::{Anomalies, AnomalyKind, DuplicatePairs, Enrolled, EnrolledFace, Subject};
use faceid::types::FaceId;
use reqwest::multipart::Form;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{TestApp, photos};

impl TestApp {
    async fn duplicates(&self) -> DuplicatePairs {
        self.get(&format!("/duplicates?gallery={}&limit=200", self.gallery)).await.json()
    }

    async fn anomalies(&self) -> Anomalies {
        self.get(&format!("/anomalies?gallery={}&limit=200", self.gallery)).await.json()
    }

    /// Waits until everything that was enrolled was looked at.
    async fn reviewed(&self) {
        let deadline = Instant::now() + Duration::from_secs(600);
        loop {
            let review = self.anomalies().await.review;
            if review.reviewed == review.total {
                return;
            }
            assert!(Instant::now() < deadline, "the review does not end: {review:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// 50 people with 10 photos each; five photos are enrolled under a wrong name, five people under two names.
#[tokio::test]
#[ignore = "needs the test photos"]
async fn planted_mistakes_are_found_and_little_else() {
    let (lfw, orl) = (photos::folder("lfw100"), photos::folder("orl"));
    let app = TestApp::start().await;
    let people: Vec<_> = photos::people(&lfw).into_iter().chain(photos::people(&orl)).collect();
    assert_eq!(people.len(), 50);
    let (mut wrong, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for (number, (person, files)) in people.iter().enumerate() {
        for (photo, file) in files.iter().enumerate() {
            // Of every tenth person from the first on one photo goes to the next; every tenth from the fifth on has a
            // second name.
            let strays = number % 10 == 0 && photo == 7;
            let subject = match number % 10 {
                0 if strays => people[number + 1].0.clone(),
                5 if photo >= 5 => format!("{person} again"),
                _ => person.clone(),
            };
            let enrolled = app.enroll_largest(&subject, &photos::read(file)).await;
            if strays {
                wrong.insert((enrolled.face_id, person.clone()));
            }
        }
        if number % 10 == 5 {
            twice.insert(person.clone());
        }
    }
    app.reviewed().await;
    let anomalies = app.anomalies().await.items;
    let duplicates = app.duplicates().await.items;
    let found_wrong: BTreeSet<(FaceId, String)> = anomalies
        .iter()
        .filter(|anomaly| anomaly.kind == AnomalyKind::Mislabelled)
        .map(|anomaly| (anomaly.face_id.unwrap(), anomaly.other.clone().unwrap()))
        .collect();
    let found_twice: BTreeSet<String> = duplicates
        .iter()
        .filter(|pair| pair.subject.trim_end_matches(" again") == pair.other.trim_end_matches(" again"))
        .map(|pair| pair.subject.trim_end_matches(" again").to_owned())
        .collect();
    assert_eq!((wrong.len(), twice.len()), (5, 5));
    assert!(found_wrong.is_superset(&wrong), "{anomalies:#?}");
    assert!(found_twice.is_superset(&twice), "{duplicates:#?}");
    let false_reports = anomalies.len() + duplicates.len() - 10;
    println!("5 of 5 wrong names, 5 of 5 double names, {false_reports} false reports");
    assert!(false_reports <= 2, "{anomalies:#?} {duplicates:#?}");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_wrong_name_is_mended_by_moving_the_face() {
    let stray = photos::lfw("Tony_Blair", 4);
    let app = TestApp::start().await;
    for number in 1..=3 {
        app.enroll_largest("Tony", &photos::lfw("Tony_Blair", number)).await;
        app.enroll_largest("George", &photos::lfw("George_W_Bush", number)).await;
    }
    app.reviewed().await;
    assert!(app.anomalies().await.items.is_empty() && app.duplicates().await.items.is_empty());
    let enrolled: Enrolled = app.enroll_largest("George", &stray).await;
    assert_eq!(enrolled.duplicates[0].subject, "Tony");
    app.reviewed().await;
    let found = app.anomalies().await.items;
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].kind, found[0].face_id), (AnomalyKind::Mislabelled, Some(enrolled.face_id)));
    assert_eq!((found[0].subject.as_str(), found[0].other.as_deref()), ("George", Some("Tony")));
    assert!(found[0].evidence["other_similarity"].as_f64() > found[0].evidence["own_similarity"].as_f64());

    let path = format!("/faces/{}/move", enrolled.face_id);
    let moved = app.send(app.request(Method::POST, &path).json(&json!({"subject": "Tony"}))).await;
    moved.expect(StatusCode::OK);
    assert_eq!(moved.json::<EnrolledFace>().subject, "Tony");
    app.reviewed().await;
    assert!(app.anomalies().await.items.is_empty());
    let unknown = format!("/faces/{}/move", uuid::Uuid::now_v7());
    let refused = app.send(app.request(Method::POST, &unknown).json(&json!({"subject": "Tony"}))).await;
    refused.expect_problem(404, Code::FaceNotFound);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn two_names_of_one_person_are_merged() {
    let photo = photos::lfw("Tony_Blair", 1);
    let app = TestApp::start().await;
    app.enroll_largest("Tony", &photo).await;
    let second = app.enroll_largest("Anthony", &photos::lfw("Tony_Blair", 2)).await;
    app.reviewed().await;
    let pairs = app.duplicates().await;
    assert_eq!(pairs.items.len(), 1);
    assert!(pairs.items[0].similarity >= pairs.min_similarity && pairs.items[0].probability.unwrap() > 0.9);
    let merge = |subject: &str, from: &str| {
        let path = format!("/subjects/{subject}/merge?gallery={}", app.gallery);
        app.send(app.request(Method::POST, &path).json(&json!({"subject": from})))
    };
    merge("Tony", "Tony").await.expect_problem(409, Code::SameSubject);
    merge("Tony", "Nobody").await.expect_problem(404, Code::SubjectNotFound);
    let merged: Subject = merge("Tony", "Anthony").await.json();
    assert_eq!((merged.name.as_str(), merged.faces), ("Tony", 2));
    let face: EnrolledFace = app.get(&format!("/faces/{}", second.face_id)).await.json();
    assert_eq!(face.subject, "Tony");
    app.reviewed().await;
    assert!(app.duplicates().await.items.is_empty() && app.anomalies().await.items.is_empty());
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_subject_of_two_people_is_reported() {
    let photo = photos::lfw("Tony_Blair", 1);
    let app = TestApp::start().await;
    app.enroll_largest("somebody", &photo).await;
    app.enroll_largest("somebody", &photos::lfw("George_W_Bush", 1)).await;
    app.enroll_largest("somebody", &photos::lfw("George_W_Bush", 2)).await;
    app.reviewed().await;
    let found = app.anomalies().await.items;
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].kind, found[0].subject.as_str()), (AnomalyKind::TwoPeople, "somebody"));
    let sizes: BTreeSet<usize> =
        found[0].evidence["groups"].as_array().unwrap().iter().map(|group| group.as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1, 2].into());
    let only = format!("/anomalies?gallery={}&kind=not_a_face", app.gallery);
    assert!(app.get(&only).await.json::<Anomalies>().items.is_empty());
    let unknown = format!("/anomalies?gallery={}&kind=ghost", app.gallery);
    app.get(&unknown).await.expect_problem(422, Code::InvalidField);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn the_same_image_is_refused_under_another_name_and_at_once() {
    let photo = photos::lfw("Tony_Blair", 1);
    let app = TestApp::start().await;
    let enroll = |subject: &'static str| {
        let form: Form = app.enroll_form(subject, &photo).text("on_duplicate", "reject");
        app.post_form("/enroll", form)
    };
    let (a, b, c, d) = tokio::join!(enroll("a"), enroll("b"), enroll("c"), enroll("d"));
    let answers = [a, b, c, d];
    let (stored, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == StatusCode::CREATED);
    assert_eq!((stored.len(), refused.len()), (1, 3));
    for answer in refused {
        assert!(answer.expect_problem(409, Code::DuplicateFace).duplicates[0].same_image);
    }
    let other = app.enroll_form("e", &photos::lfw("Tony_Blair", 2)).text("on_duplicate", "reject");
    let problem = app.post_form("/enroll", other).await.expect_problem(409, Code::DuplicateFace);
    assert!(!problem.duplicates[0].same_image);
}
