//! How a server starts, stops and survives.

use std::collections::{HashMap, HashSet};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use faceid::http::Code;
use faceid::service::answers::{EnrolledFace, Identified, Page};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::StatusCode;
use reqwest::multipart::Form;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::process::{Server, data_dir, faceid, free_port};
use crate::support::{Answer, TestApp, part, photos};

/// A form in wire format, for clients that do not behave.
fn raw_request(photo: &[u8], length: usize) -> Vec<u8> {
    let head = format!(
        "POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), photo].concat()
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await.unwrap()
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn every_acknowledged_face_survives_kill_9() {
    let folder = photos::folder("lfw100");
    let data = data_dir();
    let mut server = Server::start(data.path(), &["--max-requests", "200"]).await;
    let app = TestApp::at(server.url.clone()).await;
    let photos: Vec<_> = photos::people(&folder).into_iter().flat_map(|(_, files)| files).collect();

    let mut enrolments = JoinSet::new();
    for number in 0..200 {
        let form = app.enroll_form(&format!("subject {}", number % 50), &photos::read(&photos[number % 100]));
        let request = app.client.post(format!("{}/enroll", app.url)).multipart(form);
        enrolments.spawn(async move {
            let response = request.send().await.ok()?;
            let created = response.status() == StatusCode::CREATED;
            let body: serde_json::Value = response.json().await.ok()?;
            created.then(|| (body["face_id"].as_str().unwrap().to_owned(), number))
        });
    }
    let mut acknowledged = HashMap::new();
    while acknowledged.len() < 60 {
        let answer = enrolments.join_next().await.expect("more than 60 of 200 enrolments succeed").unwrap();
        acknowledged.extend(answer);
    }
    server.kill();
    while let Some(answer) = enrolments.join_next().await {
        acknowledged.extend(answer.unwrap());
    }
    println!("killed with {} of 200 faces acknowledged", acknowledged.len());
    assert!(acknowledged.len() < 200, "the server was killed too late for this test to mean anything");

    let server = Server::start(data.path(), &[]).await;
    let app = TestApp { url: server.url.clone(), ..app };
    let mut stored = HashSet::new();
    let mut cursor = String::new();
    loop {
        let page: Page<EnrolledFace> =
            app.get(&format!("/faces?gallery={}&limit=200{cursor}", app.gallery)).await.json();
        stored.extend(page.items.into_iter().map(|face| face.id.to_string()));
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(acknowledged.keys().all(|face| stored.contains(face)), "acknowledged faces are missing");
    // A face is whole: its chip is there, and a search finds it.
    for face in &stored {
        app.get(&format!("/faces/{face}/chip")).await.expect(StatusCode::OK);
    }
    let number = acknowledged.values().next().unwrap() % 100;
    let answer: Identified = app.post_photo("/identify", &photos::read(&photos[number])).await.json();
    // Photos of one person are in several subjects, so it may be called ambiguous.
    let best = &answer.faces[0].matches[0];
    assert!(best.similarity >= answer.threshold, "{best:?}");
    let erased = app.send(app.request(reqwest::Method::DELETE, &format!("/galleries/{}", app.gallery))).await.value();
    assert_eq!(erased["faces"], stored.len());
    assert_eq!(erased["embeddings"], stored.len(), "every face has its embedding");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_shutdown_finishes_what_was_accepted() {
    let photo = photos::lfw("Tony_Blair", 1);
    let data = data_dir();
    let mut server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    // All but the last byte: accepted, not yet answered.
    let mut connection = connect(&server).await;
    let request = raw_request(&photo, photo.len());
    let (most, last) = request.split_at(request.len() - 1);
    connection.write_all(most).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.terminate();
    tokio::time::sleep(Duration::from_millis(300)).await;
    connection.write_all(last).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"faces\":[{"), "{answer}");
    assert!(server.ended().await.success());
    assert!(app.client.get(format!("{}/healthz", app.url)).send().await.is_err());
    assert!(!data.path().join("postgres/postmaster.pid").exists(), "Postgres still runs");
}

#[tokio::test]
async fn a_shutdown_gives_no_cause_for_warnings() {
    let data = data_dir();
    let log = data.path().join("log");
    let mut server = Server::start_logging_to(std::fs::File::create(&log).unwrap(), data.path(), &[]).await;
    // A slow machine may have given cause for some before.
    let before = std::fs::read_to_string(&log).unwrap().len();
    server.terminate();
    assert!(server.ended().await.success());
    assert_eq!(&std::fs::read_to_string(&log).unwrap()[before..], "");
}

#[tokio::test]
async fn a_data_directory_serves_one_process() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let bind = format!("127.0.0.1:{}", free_port());
    let second = faceid().args(["serve", "--bind", &bind, "--data-dir"]).arg(data.path()).output().unwrap();
    assert!(!second.status.success());
    let message = String::from_utf8(second.stderr).unwrap();
    assert!(message.contains("in use") && message.contains(&server.pid().to_string()), "{message}");

    let taken = server.url.strip_prefix("http://").unwrap();
    let other = data_dir();
    let third = faceid().args(["serve", "--bind", taken, "--data-dir"]).arg(other.path()).output().unwrap();
    let message = String::from_utf8(third.stderr).unwrap();
    assert!(message.contains("cannot listen on"), "{message}");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn too_many_requests_are_refused_at_once() {
    let photo = photos::lfw("Tony_Blair", 1);
    let data = data_dir();
    let server = Server::start(data.path(), &["--max-requests", "2"]).await;
    let app = TestApp::at(server.url.clone()).await;
    let mut requests = JoinSet::new();
    for _ in 0..40 {
        let form = Form::new().part("image", part(&photo));
        let request = app.client.post(format!("{}/detect", app.url)).multipart(form);
        requests.spawn(async move { request.send().await.unwrap() });
    }
    let (mut served, mut refused) = (0, 0);
    while let Some(response) = requests.join_next().await {
        let response = response.unwrap();
        match response.status() {
            StatusCode::OK => served += 1,
            StatusCode::SERVICE_UNAVAILABLE => {
                assert_eq!(response.headers()["retry-after"], "1");
                assert_eq!(response.json::<serde_json::Value>().await.unwrap()["code"], "overloaded");
                refused += 1;
            }
            other => panic!("{other}"),
        }
    }
    println!("{served} served, {refused} refused");
    assert!(served >= 2 && refused > 0);
    app.post_photo("/detect", &photo).await;
}

#[tokio::test]
async fn the_bytes_of_all_requests_together_are_bounded() {
    let data = data_dir();
    let sizes = ["--max-image-bytes", "1950000", "--max-body-bytes", "2000000", "--body-budget", "4000000"];
    let server = Server::start(data.path(), &sizes).await;
    let app = TestApp::at(server.url.clone()).await;
    let hoard = || async {
        let mut hoarder = connect(&server).await;
        hoarder.write_all(&raw_request(&vec![0; 1_900_000], 1_900_001)).await.unwrap();
        hoarder
    };
    let detect = || async {
        let request = app.request(reqwest::Method::POST, "/detect").header("content-type", "image/png");
        app.send(request.body(vec![0; 500_000])).await
    };
    // The hoarders' bytes arrive when they arrive. If the probe comes first, one of them is refused, and hears of it late:
    // the rest of its body is waited for.
    let (mut hoarders, mut answer) = (Vec::new(), detect().await);
    for round in 1..=40 {
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            break;
        }
        let pause = Duration::from_millis(50 * round);
        hoarders.clear();
        tokio::time::sleep(pause).await;
        hoarders.extend([hoard().await, hoard().await]);
        tokio::time::sleep(pause).await;
        answer = detect().await;
    }
    answer.expect_problem(503, Code::Overloaded);
    drop(hoarders);
    for _ in 0..100 {
        answer = detect().await;
        if answer.status != StatusCode::SERVICE_UNAVAILABLE {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    answer.expect_problem(415, Code::UnsupportedImage);
}

#[tokio::test]
async fn a_dawdling_client_does_not_delay_the_end() {
    let data = data_dir();
    let mut server = Server::start(data.path(), &["--shutdown-timeout", "1", "--request-timeout", "600"]).await;
    let mut dawdlers = Vec::new();
    for sent in [
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX-",
        "POST /detect HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nx",
    ] {
        let mut dawdler = connect(&server).await;
        dawdler.write_all(sent.as_bytes()).await.unwrap();
        dawdlers.push(dawdler);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.terminate();
    assert!(server.ended().await.success());
    assert!(!data.path().join("postgres/postmaster.pid").exists(), "Postgres still runs");
}

#[tokio::test]
async fn a_stop_while_starting_is_orderly() {
    for milliseconds in [50, 200, 400, 600, 800] {
        let data = data_dir();
        let bind = format!("127.0.0.1:{}", free_port());
        let mut child = faceid().args(["serve", "--bind", &bind, "--data-dir"]).arg(data.path()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
        // Within the first moments nobody listens for signals yet, and a plain death is orderly enough.
        let plain_death = status.signal() == Some(Signal::SIGTERM as i32);
        assert!(status.success() || plain_death, "{status} after {milliseconds} ms");
        assert!(!data.path().join("postgres/postmaster.pid").exists(), "Postgres still runs");
    }
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn slow_and_vanishing_clients_do_no_harm() {
    let photo = photos::lfw("Tony_Blair", 1);
    let data = data_dir();
    let server = Server::start(data.path(), &["--request-timeout", "2"]).await;
    let app = TestApp::at(server.url.clone()).await;

    let mut slow = connect(&server).await;
    slow.write_all(&raw_request(&photo[..100], photo.len())).await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"code\":\"request_timeout\""), "{answer}");

    // A head that never ends, and one that never begins.
    for head in ["POST /detect HTTP/1.1\r\nHost: localhost\r\nX-More: ", ""] {
        let mut endless = connect(&server).await;
        endless.write_all(head.as_bytes()).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(60), endless.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "the connection stays open for ever");
    }

    for sent in [10, photo.len() / 2, photo.len()] {
        for _ in 0..20 {
            let mut gone = connect(&server).await;
            gone.write_all(&raw_request(&photo[..sent], photo.len())).await.unwrap();
        }
    }
    let answer = app.post_photo("/detect", &photo).await;
    assert_ne!(answer.value()["faces"].as_array().unwrap().len(), 0);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn without_its_database_it_says_so_and_recovers() {
    let photo = photos::lfw("Tony_Blair", 1);
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    app.enroll_largest("Tony", &photo).await;

    let postmaster = std::fs::read_to_string(data.path().join("postgres/postmaster.pid")).unwrap();
    let postmaster = Pid::from_raw(postmaster.lines().next().unwrap().parse().unwrap());
    kill(postmaster, Signal::SIGKILL).unwrap();
    let identify = || async {
        let form = Form::new().part("image", part(&photo)).text("gallery", app.gallery.clone());
        app.post_form("/identify", form).await
    };
    let mut last: Answer = identify().await;
    for _ in 0..600 {
        match last.status {
            StatusCode::OK => break,
            _ => last.expect_problem(503, Code::DatabaseUnavailable),
        };
        assert_eq!(last.headers["retry-after"], "1");
        tokio::time::sleep(Duration::from_millis(100)).await;
        last = identify().await;
    }
    let answer: Identified = last.json();
    assert_eq!(answer.faces[0].matches[0].subject, "Tony");
}
