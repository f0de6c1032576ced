//! Data sets over HTTP: an archive of photos becomes a gallery.

use std::io::{Cursor, Write};
use std::path::Path;
use std::time::Duration;

use faceid::http::Code;
use faceid::jobs::JobState;
use faceid::service::answers::Job;
use futures_util::{StreamExt, stream};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Method, StatusCode};
use serde_json::{Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{Answer, TestApp, photos};

/// An archive of files, by path.
pub fn zipped(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, content) in files {
        zip.start_file(path.as_str(), SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Photos of people of orl, `each` of everybody, by path in a folder.
pub fn people(people: std::ops::Range<usize>, each: usize) -> Vec<(String, Vec<u8>)> {
    let all = photos::people(&photos::folder("orl"));
    let paths = all[people].iter().flat_map(|(name, files)| files[..each].iter().map(move |file| (name, file)));
    let named = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    paths.map(|(name, file)| (format!("{name}/{}", named(file)), photos::read(file))).collect()
}

/// A file with the given content, for tests of what is refused; a PNG at first sight.
fn file(path: &str) -> (String, Vec<u8>) {
    (path.to_owned(), b"\x89PNG\r\n\x1a\n and so on".to_vec())
}

impl TestApp {
    pub async fn upload(&self, archive: impl Into<Body>) -> Answer {
        let request = self.request(Method::POST, "/admin/datasets").query(&[("gallery", &self.gallery)]);
        self.send(request.header("content-type", "application/zip").body(archive)).await
    }

    async fn import(&self, archive: Vec<u8>) -> Job {
        let answer = self.upload(archive).await;
        answer.expect(StatusCode::ACCEPTED);
        let job: Job = answer.json();
        assert_eq!(answer.headers["location"].to_str().unwrap(), format!("/admin/jobs/{}", job.id));
        self.finished(job).await
    }

    /// Names and numbers of faces of everybody, of up to 200 people.
    pub async fn people(&self) -> Vec<(String, u64)> {
        let subjects = self.get(&format!("/subjects?gallery={}&limit=200", self.gallery)).await.value();
        let one = |subject: &Value| (subject["name"].as_str().unwrap().to_owned(), subject["faces"].as_u64().unwrap());
        let mut people: Vec<_> = subjects["items"].as_array().unwrap().iter().map(one).collect();
        people.sort();
        people
    }
}

/// Waits until the store holds no archive.
async fn until_forgotten(data: &Path) {
    let uploads = data.join("models/uploads");
    while std::fs::read_dir(&uploads).is_ok_and(|files| files.count() > 0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn an_archive_becomes_a_gallery_that_is_learned_from() {
    let known = people(0..5, 3);
    let data = data_dir();
    let server =
        Server::start(data.path(), &["--embedder", "fast", "--train-threads", "1", "--background-share", "1"]).await;
    let app = TestApp::at(server.url.clone()).await;
    let mut files: Vec<(String, Vec<u8>)> =
        known.iter().map(|(path, photo)| (format!("set/{path}"), photo.clone())).collect();
    let first = files[0].1.clone();
    files.extend([
        ("set/readme.txt".to_owned(), b"who they are".to_vec()),
        ("set/.hidden/1.pgm".to_owned(), first.clone()),
        ("__MACOSX/set/s1/._1.pgm".to_owned(), b"nothing".to_vec()),
        ("set/../../etc/1.pgm".to_owned(), first.clone()),
        ("set/cut/1.pgm".to_owned(), first[..first.len() / 2].to_vec()),
        ("set/cut/2.txt".to_owned(), b"no photo".to_vec()),
        (format!("set/{}/1.pgm", "n".repeat(256)), first.clone()),
        // The very image again.
        (format!("set/{}-again.pgm", known[0].0), first),
    ]);
    let archive = zipped(&files);
    let job = app.import(archive.clone()).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    let result = job.result.unwrap();
    let refusals = json!([
        {"path": "set/cut/1.pgm", "code": "corrupt_image"},
        {"path": "set/cut/2.txt", "code": "unsupported_image"},
        {"path": "set/../../etc/1.pgm", "code": "invalid_name"},
        {"path": "set/.hidden/1.pgm", "code": "hidden"},
        {"path": format!("set/{}/1.pgm", "n".repeat(256)), "code": "invalid_name"},
        {"path": "set/readme.txt", "code": "beside_folders"},
    ]);
    assert_eq!(
        result,
        json!({
            "gallery": app.gallery, "subjects": 5, "faces": 15, "already_there": 1, "refused": 6, "refusals": refusals,
        })
    );
    let people = app.people().await;
    assert!(people.len() == 5 && people.iter().all(|(_, faces)| *faces == 3), "{people:?}");
    until_forgotten(data.path()).await;

    // The same again adds nothing; as a form it is the same.
    let form =
        Form::new().part("file", Part::bytes(archive).file_name("people.zip")).text("gallery", app.gallery.clone());
    let answer = app.post_form("/admin/datasets", form).await;
    answer.expect(StatusCode::ACCEPTED);
    let job = app.finished(answer.json()).await;
    let again = job.result.unwrap();
    assert_eq!((&again["faces"], &again["already_there"], &again["subjects"]), (&json!(0), &json!(16), &json!(5)));
    assert_eq!(app.people().await, people);

    // It is a gallery like any other.
    let body = json!({
        "gallery": app.gallery, "steps": 2, "test_share": 0.34, "protected": [],
        "recipe": {"batch": {"subjects": 3, "photos": 3}, "fine_tuning": {"replay": 2}, "held_out": {"validation_share": 0}},
    });
    let answer = app.post_json("/admin/retrain", body).await;
    answer.expect(StatusCode::ACCEPTED);
    assert_eq!(app.finished(answer.json()).await.state, JobState::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn the_command_line_uploads_into_a_new_gallery() {
    let files = people(5..7, 2);
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let path = data.path().join("people.zip");
    std::fs::write(&path, zipped(&files)).unwrap();
    let upload = async || {
        let mut command = faceid();
        command.args(["datasets", "upload", "--server", &server.url, "--gallery", "Tür 3"]).arg(&path);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    let output = upload().await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("enrolled 4 photos of 2 people into Tür 3"), "{output:?}");
    let output = upload().await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("4 photos were there already"), "{output:?}");
    std::fs::write(&path, b"no archive").unwrap();
    let output = upload().await;
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("ZIP"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn an_import_goes_on_after_kill_9_and_ends_when_it_is_cancelled() {
    let files = people(0..20, 10);
    let data = data_dir();
    let flags = ["--job-lease", "2", "--background-share", "0.2"];
    let mut server = Server::start(data.path(), &flags).await;
    let app = TestApp::at(server.url.clone()).await;
    let answer = app.upload(zipped(&files)).await;
    answer.expect(StatusCode::ACCEPTED);
    let job: Job = answer.json();
    let enrolled = async |app: &TestApp| app.people().await.iter().map(|(_, faces)| faces).sum::<u64>();
    while enrolled(&app).await < 20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.kill();
    let server = Server::start(data.path(), &["--job-lease", "2", "--background-share", "1"]).await;
    let app = TestApp { client: reqwest::Client::new(), url: server.url.clone(), gallery: app.gallery };
    let job = app.finished(job).await;
    assert_eq!((job.state, job.attempts), (JobState::Succeeded, 2), "{job:?}");
    let result = job.result.unwrap();
    let count = |name: &str| result[name].as_u64().unwrap();
    assert_eq!((count("subjects"), count("faces") + count("already_there")), (20, 200), "{result}");
    let people = app.people().await;
    assert!(people.len() == 20 && people.iter().all(|(_, faces)| *faces == 10), "{people:?}");
    drop(server);

    let server = Server::start(data.path(), &flags).await;
    let other = TestApp::at(server.url.clone()).await;
    let answer = other.upload(zipped(&files)).await;
    answer.expect(StatusCode::ACCEPTED);
    let job: Job = answer.json();
    while enrolled(&other).await < 8 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let cancel = async |job: &Job| -> Job {
        let answer = other.send(other.request(Method::POST, &format!("/admin/jobs/{}/cancel", job.id))).await;
        answer.expect(StatusCode::OK);
        answer.json()
    };
    // One that waits is forgotten at once, with its archive.
    let waiting: Job = other.upload(zipped(&files[..1])).await.json();
    assert_eq!(cancel(&waiting).await.state, JobState::Cancelled);
    assert_eq!(std::fs::read_dir(data.path().join("models/uploads")).unwrap().count(), 1);
    cancel(&job).await;
    let job = other.finished(job).await;
    assert_eq!(job.state, JobState::Cancelled, "{job:?}");
    let faces = enrolled(&other).await;
    assert!((8..200).contains(&faces), "{faces}");
    until_forgotten(data.path()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(enrolled(&other).await, faces);
    // What came is whole: a face that is known.
    let mates = &files[..1];
    assert_eq!(other.post_photo("/identify", &mates[0].1).await.value()["faces"][0]["known"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn what_is_no_data_set_is_refused_and_leaves_nothing() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--max-dataset-bytes", "100000", "--request-timeout", "2"]).await;
    let app = TestApp { client: reqwest::Client::new(), url: server.url.clone(), gallery: "nobody's".to_owned() };
    let refused = async |archive: Vec<u8>, word: &str| {
        let problem = app.upload(archive).await.expect_problem(422, Code::InvalidDataset);
        assert!(problem.field.as_deref() == Some("file") && problem.detail.contains(word), "{problem:?}");
    };
    refused(b"This is no archive.".to_vec(), "ZIP").await;
    refused(Vec::new(), "ZIP").await;
    refused(zipped(&[]), "folder").await;
    refused(zipped(&[file("1.png"), file("../../ada/1.png"), file("ada/.1.png"), file("__MACOSX/1.png")]), "folder")
        .await;
    refused(zipped(&[("ada/1.txt".to_owned(), b"no photo".to_vec())]), "folder").await;
    let mut cut = zipped(&[file("ada/1.png")]);
    cut.truncate(cut.len() - 10);
    refused(cut, "ZIP").await;

    // Too large, whether it says so or not.
    app.upload(vec![0; 100_001]).await.expect_problem(413, Code::BodyTooLarge);
    let chunks = || stream::iter((0..11).map(|_| Ok::<_, std::io::Error>(vec![b' '; 10_000])));
    app.upload(Body::wrap_stream(chunks())).await.expect_problem(413, Code::BodyTooLarge);
    let form = Form::new().text("gallery", "nobody's").part("file", Part::stream(Body::wrap_stream(chunks())));
    app.post_form("/admin/datasets", form).await.expect_problem(413, Code::BodyTooLarge);
    // One that comes slowly is waited for, beyond the time for requests; one that stalls is not.
    let archive = zipped(&[file("ada/1.png"), file("bob/1.png")]);
    let slow: Vec<Vec<u8>> = archive.chunks(archive.len() / 6 + 1).map(<[u8]>::to_vec).collect();
    let slowly = |pause: u64| {
        stream::iter(slow.clone()).then(move |chunk| async move {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            Ok::<_, std::io::Error>(chunk)
        })
    };
    let (answer, other, ()) =
        tokio::join!(app.upload(Body::wrap_stream(slowly(1000))), app.upload(Body::wrap_stream(slowly(4000))), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            app.upload(archive.clone()).await.expect_problem(503, Code::Overloaded);
        });
    other.expect_problem(408, Code::RequestTimeout);
    answer.expect(StatusCode::ACCEPTED);
    let job = app.finished(answer.json()).await;
    assert_eq!(job.result.unwrap()["refused"], 2);
    // Fields.
    let send = async |path: &str, media_type: &str| {
        let request = app.request(Method::POST, path).header("content-type", media_type);
        app.send(request.body(archive.clone())).await
    };
    send("/admin/datasets", "application/zip").await.expect_problem(422, Code::MissingField);
    send("/admin/datasets?gallery=a&subject=b", "application/zip").await.expect_problem(422, Code::UnknownField);
    send("/admin/datasets?gallery=", "application/zip").await.expect_problem(422, Code::InvalidField);
    send("/admin/datasets?gallery=a", "image/png").await.expect_problem(415, Code::UnsupportedMediaType);
    let without = Form::new().text("gallery", "nobody's");
    app.post_form("/admin/datasets", without).await.expect_problem(422, Code::MissingField);
    let unknown = Form::new().text("gallery", "x").text("photos", "y");
    app.post_form("/admin/datasets", unknown).await.expect_problem(422, Code::UnknownField);

    until_forgotten(data.path()).await;
    let galleries = app.get("/galleries").await.value();
    let names: Vec<&str> = galleries["items"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names, ["default", "nobody's"], "only what was accepted made a gallery");
    assert_eq!(app.jobs().await.len(), 1);
}

/// A list of a million files, all of them empty, as ZIP64 has it.
fn a_million_entries() -> Vec<u8> {
    const ENTRIES: u64 = 1_000_000;
    let local = [&b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0"[..], &[0; 12], &[5, 0, 0, 0], b"a/jpg"].concat();
    let start = local.len() as u64;
    let mut archive = local;
    for number in 0..ENTRIES {
        archive.extend(b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0");
        archive.extend([&[0; 12][..], &[9, 0], &[0; 16]].concat());
        archive.extend(format!("a/{number:07}").bytes());
    }
    let end = archive.len() as u64;
    archive.extend(b"PK\x06\x06");
    archive.extend(44_u64.to_le_bytes());
    archive.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in [ENTRIES, ENTRIES, end - start, start] {
        archive.extend(number.to_le_bytes());
    }
    archive.extend(b"PK\x06\x07\0\0\0\0");
    archive.extend(end.to_le_bytes());
    archive.extend([1, 0, 0, 0]);
    archive.extend(b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0");
    archive
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_of_a_million_entries_is_refused_and_costs_no_memory() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp { client: reqwest::Client::new(), url: server.url.clone(), gallery: "bomb".to_owned() };
    let before = server.peak_memory();
    let problem = app.upload(a_million_entries()).await.expect_problem(422, Code::InvalidDataset);
    assert!(problem.detail.contains("200000 entries"), "{problem:?}");
    let more = server.peak_memory() - before;
    assert!(more < 256 << 20, "{more} bytes more");
    app.get("/galleries").await.expect(StatusCode::OK);
    until_forgotten(data.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_large_upload_takes_no_memory() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp { client: reqwest::Client::new(), url: server.url.clone(), gallery: "large".to_owned() };
    let before = server.peak_memory();
    let chunks = stream::iter((0..300).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1_000_000])));
    app.upload(Body::wrap_stream(chunks)).await.expect_problem(422, Code::InvalidDataset);
    let grown = server.peak_memory() - before;
    println!("peak memory before {before}, grown by {grown}");
    assert!(grown < 80 << 20, "peak memory grew by {grown} bytes");
    until_forgotten(data.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn a_training_without_its_gpu_fails_and_says_so() {
    let files = people(0..4, 2);
    let data = data_dir();
    let folder = data.path().join("nothing-here");
    let flags = ["--device", "cpu", "--train-device", "cuda", "--cuda-libraries", folder.to_str().unwrap()];
    let server = Server::start(data.path(), &flags).await;
    let app = TestApp::at(server.url.clone()).await;
    assert_eq!(app.import(zipped(&files)).await.state, JobState::Succeeded);
    let answer = app.post_json("/admin/retrain", json!({"gallery": app.gallery})).await;
    answer.expect(StatusCode::ACCEPTED);
    let job = app.finished(answer.json()).await;
    assert_eq!((job.state, job.attempts), (JobState::Failed, 1), "{job:?}");
    let error = job.error.unwrap();
    assert!(error.contains("train_device") && error.contains("nothing-here"), "{error}");
    assert!(app.get("/readyz").await.status.is_success());
}
