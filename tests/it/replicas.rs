//! Two servers on one database, and a third that searches in Postgres: all give the same answers.

use std::time::{Duration, Instant};

use faceid::service::answers::{Enrolled, Gallery, Identified, SearchPlace};
use reqwest::multipart::Form;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::process::{Server, data_dir};
use crate::support::{TestApp, part, photos};

/// Three servers: the first runs the database, the others use it, and the last searches in Postgres.
async fn three_servers(data_dir: &std::path::Path, others: &std::path::Path) -> [Server; 3] {
    let first = Server::start(data_dir, &["--search", "resident"]).await;
    let url = format!("postgres://faceid@localhost/faceid?host={}", data_dir.join("run").display());
    let second = Server::start(others, &["--database-url", &url, "--search", "resident"]).await;
    let third = Server::start(others, &["--database-url", &url, "--search", "pgvector"]).await;
    [first, second, third]
}

async fn place(app: &TestApp) -> SearchPlace {
    app.get(&format!("/galleries/{}", app.gallery)).await.json::<Gallery>().search.place
}

/// Without what differs between two correct answers.
async fn matches(app: &TestApp, photo: &[u8]) -> String {
    let form = Form::new().part("image", part(photo)).text("gallery", app.gallery.clone()).text("top_k", "100");
    let answer: Identified = app.post_form("/identify", form).await.json();
    serde_json::to_string(&answer.faces).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn servers_agree_with_an_exact_scan_whoever_wrote_what() {
    let folder = photos::folder("lfw100");
    let (data, others) = (data_dir(), data_dir());
    let servers = three_servers(data.path(), others.path()).await;
    let first = TestApp::at(servers[0].url.clone()).await;
    let at = |server: &Server| TestApp {
        url: server.url.clone(),
        gallery: first.gallery.clone(),
        client: first.client.clone(),
    };
    let (second, exact) = (at(&servers[1]), at(&servers[2]));
    let people = photos::people(&folder);

    // Eight clients, four for each of two servers, enroll, rename and delete.
    let clients = (0..8).map(|client| {
        let app = if client % 2 == 0 { at(&servers[0]) } else { at(&servers[1]) };
        let people = people.clone();
        tokio::spawn(async move {
            for round in 0..5 {
                let (person, files) = &people[(client + round) % people.len()];
                let subject = format!("{person} of {}", client / 2);
                let enrolled = app.enroll_largest(&subject, &photos::read(&files[(client + round) % 10])).await;
                let path = format!("/subjects/{}?gallery={}", enrolled.subject_id, app.gallery);
                match round % 3 {
                    // Somebody else may have deleted it meanwhile.
                    1 => {
                        let name = format!("{subject}, {client} {round}");
                        app.send(app.request(Method::PATCH, &path).json(&json!({"name": name}))).await;
                    }
                    2 => _ = app.send(app.request(Method::DELETE, &path)).await,
                    _ => {}
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    // The number of subjects, which probabilities know, is counted anew by PostgreSQL when it is asked for after ten seconds.
    tokio::time::sleep(Duration::from_secs(11)).await;
    matches(&exact, &photos::read(&people[0].1[0])).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((place(&first).await, place(&second).await), (SearchPlace::Resident, SearchPlace::Resident));
    assert_eq!(place(&exact).await, SearchPlace::Exact);
    for (_, files) in &people {
        for file in &files[..3] {
            let photo = photos::read(file);
            let expected = matches(&exact, &photo).await;
            assert!(expected.contains("similarity"));
            assert_eq!(matches(&first, &photo).await, expected);
            assert_eq!(matches(&second, &photo).await, expected);
        }
    }
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_write_shows_at_once_here_and_within_a_second_elsewhere() {
    let photo = photos::lfw("Tony_Blair", 1);
    let (data, others) = (data_dir(), data_dir());
    let servers = three_servers(data.path(), others.path()).await;
    let here = TestApp::at(servers[0].url.clone()).await;
    let there = TestApp { url: servers[1].url.clone(), gallery: here.gallery.clone(), client: here.client.clone() };
    let best = async |app: &TestApp| -> Option<String> {
        let answer: Identified = app.post_photo("/identify", &photo).await.json();
        answer.faces[0].matches.first().map(|best| best.subject.clone())
    };
    let until = async |expected: Option<&str>| {
        let written = Instant::now();
        while best(&there).await.as_deref() != expected {
            assert!(written.elapsed() < Duration::from_secs(10), "{expected:?} does not arrive");
        }
        println!("{expected:?} arrived after {:?}", written.elapsed());
    };
    let enrolled: Enrolled = here.enroll_largest("Tony", &photo).await;
    assert_eq!(best(&here).await.as_deref(), Some("Tony"));
    until(Some("Tony")).await;

    let path = format!("/subjects/{}?gallery={}", enrolled.subject_id, here.gallery);
    let renamed = here.send(here.request(Method::PATCH, &path).json(&json!({"name": "Anthony"}))).await;
    renamed.expect(StatusCode::OK);
    assert_eq!(best(&here).await.as_deref(), Some("Anthony"));
    until(Some("Anthony")).await;

    here.send(here.request(Method::DELETE, &path)).await.expect(StatusCode::OK);
    assert_eq!(best(&here).await, None);
    until(None).await;
}
