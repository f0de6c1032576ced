//! A gallery as a file: written beside a running server, and taken in elsewhere.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use faceid::service::answers::Identified;
use reqwest::multipart::Form;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, part, photos};

/// A command on the database in `data`.
fn at(data: &Path, arguments: &[&str]) -> Command {
    let mut command = faceid();
    command.args(arguments).arg("--data-dir").arg(data);
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The outcome of a command that succeeds.
#[track_caller]
fn succeed(mut command: Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
}

/// What a command that fails says.
#[track_caller]
fn fail(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{}", text(&output));
    text(&output)
}

/// The header and the other lines of an exported gallery.
fn lines(file: &Path) -> (Value, Vec<String>) {
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines = text.lines().map(str::to_owned);
    (serde_json::from_str(&lines.next().unwrap()).unwrap(), lines.collect())
}

async fn identify(app: &TestApp, gallery: &str, photo: &[u8]) -> Identified {
    let form = Form::new().part("image", part(photo)).text("gallery", gallery.to_owned()).text("top_k", "20");
    app.post_form("/identify", form).await.json()
}

/// Two photos each of five people, one without a face, and probes of all ten.
async fn enroll_people(app: &TestApp) -> Vec<Vec<u8>> {
    let people = photos::people(&photos::folder("lfw100"));
    for (person, files) in &people[..5] {
        for file in &files[..2] {
            app.enroll_largest(person, &photos::read(file)).await;
        }
    }
    let gallery = &app.gallery;
    let nobody = json!({"name": "Nobody \"yet\"", "gallery": gallery, "metadata": {"badge": 7}});
    app.send(app.request(Method::POST, "/subjects").json(&nobody)).await.expect(StatusCode::CREATED);
    let policy = app.request(Method::PATCH, &format!("/galleries/{gallery}")).json(&json!({"policy": {"fmr": 0.001}}));
    app.send(policy).await.expect(StatusCode::OK);
    people.iter().map(|(_, files)| photos::read(&files[5])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn a_gallery_that_moves_gives_the_same_answers() {
    let (here, there, files) = (data_dir(), data_dir(), data_dir());
    let server = Server::start(here.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let probes = enroll_people(&app).await;
    let gallery = app.gallery.as_str();
    let file = files.path().join("gallery.jsonl");
    let path = file.to_str().unwrap();

    let exported = succeed(at(here.path(), &["export", path, "--gallery", gallery]));
    assert_eq!((&exported["faces"], &exported["subjects"], &exported["left_out"]), (&10.into(), &6.into(), &0.into()));
    let (header, faces) = lines(&file);
    assert_eq!((&header["faceid"], &header["gallery"]), (&1.into(), &gallery.into()));
    assert_eq!((&header["model"]["dimension"], &header["policy"]["fmr"]), (&128.into(), &0.001.into()));
    assert_eq!(faces.len(), 11);

    let imported = succeed(at(there.path(), &["import", path]));
    assert_eq!((&imported["faces"], &imported["subjects_created"]), (&10.into(), &6.into()));
    assert_eq!((&imported["gallery_created"], &imported["model_registered"]), (&true.into(), &true.into()));
    let other = Server::start(there.path(), &[]).await;
    let moved = TestApp { client: app.client.clone(), url: other.url.clone(), gallery: gallery.to_owned() };
    for probe in &probes {
        let expected = identify(&app, gallery, probe).await;
        assert_eq!(expected.faces[0].matches.len(), 5);
        let answer = identify(&moved, gallery, probe).await;
        assert_eq!(serde_json::to_value(&answer).unwrap(), serde_json::to_value(&expected).unwrap());
    }
    // Nothing was lost on the way, down to the last bit.
    let again = files.path().join("again.jsonl");
    succeed(at(there.path(), &["export", again.to_str().unwrap(), "--gallery", gallery]));
    assert_eq!(lines(&again).1, faces);

    let bare = files.path().join("bare.jsonl");
    succeed(at(here.path(), &["export", bare.to_str().unwrap(), "--gallery", gallery, "--no-chips"]));
    assert!(lines(&bare).1.iter().all(|line| !line.contains("\"chip\"")));
    let refused = fail(at(there.path(), &["import", path]));
    assert!(refused.contains("line 2: the face") && refused.contains("exists already"), "{refused}");
    let skipped = succeed(at(there.path(), &["import", path, "--skip-existing"]));
    assert_eq!((&skipped["faces"], &skipped["skipped"]), (&0.into(), &10.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn a_copy_shows_at_a_running_server_within_seconds() {
    let (data, files) = (data_dir(), data_dir());
    let server = Server::start(data.path(), &["--search", "resident"]).await;
    let app = TestApp::at(server.url.clone()).await;
    let probes = enroll_people(&app).await;
    let file = files.path().join("gallery.jsonl");
    let path = file.to_str().unwrap();
    let url = format!("postgres://faceid@localhost/faceid?host={}", data.path().join("run").display());
    succeed(at(files.path(), &["export", path, "--gallery", &app.gallery, "--database-url", &url]));
    let began = Instant::now();
    let copied = succeed(at(data.path(), &["import", path, "--gallery", "copy", "--new-ids"]));
    assert_eq!((&copied["faces"], &copied["to_embed"], &copied["not_found"]), (&10.into(), &0.into(), &0.into()));
    println!("imported after {:?}", began.elapsed());
    let expected = identify(&app, &app.gallery, &probes[0]).await;
    loop {
        let answer =
            app.post_form("/identify", Form::new().part("image", part(&probes[0])).text("gallery", "copy")).await;
        // Its policy is that of the gallery that it is a copy of, so all but the ids is the same.
        if answer.status == StatusCode::OK
            && let Identified { faces, threshold, .. } = answer.json()
            && let Some(best) = faces[0].matches.first()
            && faces[0].matches.len() == 5
        {
            let first = &expected.faces[0].matches[0];
            assert_eq!((&best.subject, best.similarity), (&first.subject, first.similarity));
            assert_eq!((faces[0].known, threshold), (expected.faces[0].known, expected.threshold));
            assert_ne!(best.subject_id, first.subject_id);
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "the copy does not show: {}", answer.text());
    }
    println!("shown after {:?}", began.elapsed());
}

/// A made vector of the default embedder's size in a line.
fn line(subject: &str, axis: usize) -> String {
    let vector: Vec<f32> = (0..128).map(|i| if i == axis { 7.5 } else { 0.25 }).collect();
    json!({"subject": subject, "embedding": vector}).to_string()
}

fn header() -> String {
    json!({"faceid": 1, "model": {"name": "theirs", "sha256": "07".repeat(32), "dimension": 128}}).to_string()
}

#[test]
fn vectors_of_others_come_in_line_by_line() {
    let (data, files) = (data_dir(), data_dir());
    let file = files.path().join("theirs.jsonl");
    let path = file.to_str().unwrap();
    let write = |lines: &[String]| std::fs::write(&file, lines.join("\n")).unwrap();
    let with = |lines: &[&str], arguments: &[&str]| {
        write(&lines.iter().map(|line| line.to_string()).collect::<Vec<_>>());
        at(data.path(), &[&["import", path], arguments].concat())
    };
    let (ada, bob, ada2) = (line("Ada", 0), line("Bob", 1), line("Ada", 2));

    let message = fail(with(&[&ada], &[]));
    assert!(message.contains("line 1: embedding: nothing says which model"), "{message}");
    let imported = succeed(with(&[&header(), &ada, "", &bob, &ada2], &["--gallery", "theirs"]));
    assert_eq!((&imported["faces"], &imported["subjects_created"]), (&3.into(), &2.into()));
    assert_eq!((&imported["model"], &imported["lines"]), (&"theirs".into(), &5.into()));
    let message = fail(with(&[&ada, &bob], &["--model", "nobody's"]));
    assert!(message.contains("there is no model \"nobody's\""), "{message}");
    for (bad, expected) in [
        (r#"{"subject": "Cy", "embedding": [1, 2, 3]}"#, "line 3: embedding: it has 3 numbers"),
        (r#"{"subject": "Cy", "chip": "/9j/"}"#, "line 3: chip: "),
        (r#"{"subject": "Cy", "chip": "iVBORw0KGgo="}"#, "line 3: chip: it is no JPEG"),
        ("{\"subject\": \"Cy\"", "line 3: EOF while parsing"),
        ("null", "line 3: invalid type: null"),
    ] {
        let message = fail(with(&[&header(), &line("Dee", 3), bad], &["--gallery", "theirs"]));
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let output = at(data.path(), &["export", "-", "--gallery", "theirs"]).output().unwrap();
    let exported = String::from_utf8(output.stdout).unwrap();
    // No batch with a bad line left anything.
    assert_eq!(exported.lines().count(), 4, "{exported}");
    assert!(!exported.contains("Dee") && exported.contains("\"theirs\""));

    // What one process writes, another reads.
    let mut piped = at(data.path(), &["import", "-", "--gallery", "piped", "--new-ids"]);
    let mut child = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(exported.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        text(&output).contains("imported 3 faces and 2 new subjects into the new gallery piped"),
        "{}",
        text(&output)
    );
}

/// A crop as it is stored, of nobody.
fn chip() -> String {
    let mut jpeg = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_fn(112, 112, |x, y| image::Rgb([(2 * x) as u8, (2 * y) as u8, (x + y) as u8]));
    image.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, jpeg.into_inner())
}

#[test]
fn embeddings_of_a_retired_model_are_not_stored_to_be_deleted_again() {
    let (data, files) = (data_dir(), data_dir());
    let file = files.path().join("theirs.jsonl");
    let path = file.to_str().unwrap();
    std::fs::write(&file, [header(), line("Ada", 0)].join("\n")).unwrap();
    succeed(at(data.path(), &["import", path]));
    succeed(at(data.path(), &["models", "retire", "theirs"]));
    let refused = fail(at(data.path(), &["import", path, "--gallery", "again"]));
    assert!(refused.contains("line 2: it has no chip") && refused.contains("theirs, which is retired"), "{refused}");

    let mut face: Value = serde_json::from_str(&line("Bob", 1)).unwrap();
    face["chip"] = chip().into();
    std::fs::write(&file, [header(), face.to_string()].join("\n")).unwrap();
    let imported = succeed(at(data.path(), &["import", path, "--gallery", "again"]));
    assert_eq!((&imported["faces"], &imported["to_embed"], &imported["not_found"]), (&1.into(), &1.into(), &0.into()));
    assert_eq!((&imported["model"], &imported["retired_model"]), (&Value::Null, &"theirs".into()));
}
