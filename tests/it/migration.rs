//! People of other products, taken over by `faceid migrate-from`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use faceid::service::answers::Identified;
use reqwest::StatusCode;
use reqwest::multipart::Form;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, eventually, part, photos};

/// The tables of CompreFace 1.2 that hold services, subjects and examples, as its migrations make them.
const COMPREFACE: &str = "
    create table app (
        id bigint constraint pk_app primary key, name varchar(255) not null, guid varchar(36) not null unique,
        api_key varchar(36) not null unique
    );
    create table model (
        id bigint constraint pk_model primary key, name varchar(255) not null, guid varchar(36) not null unique,
        app_id bigint not null references app (id) on delete cascade,
        api_key varchar(36) not null constraint model_api_key_uindex unique, type varchar(1) not null, created_date timestamp,
        constraint app_name_app_id_uindex unique (name, app_id)
    );
    create table subject (
        id uuid constraint pk_subject primary key,
        api_key varchar(36) references model (api_key) on delete cascade on update cascade, subject_name varchar(255),
        constraint api_key_subject_name_uindex unique (api_key, subject_name)
    );
    create table img (id uuid constraint pk_img primary key, content bytea not null);
    create table embedding (
        id uuid constraint pk_embedding primary key, subject_id uuid references subject (id) on delete cascade on update cascade,
        embedding float8[] not null, calculator varchar(255) not null, img_id uuid references img (id)
    );
    insert into app values (0, 'Demo app', 'app-0', 'app-key-0'), (1, 'Office', 'app-1', 'app-key-1');
    insert into model values
        (0, 'Demo', 'model-0', 0, '00000000-0000-0000-0000-000000000002', 'R'),
        (1, 'doors', 'model-1', 1, '3d9bd6bd-4b0c-4b72-8f0e-0b1c8a3ff001', 'R'),
        (2, 'gates', 'model-2', 1, '3d9bd6bd-4b0c-4b72-8f0e-0b1c8a3ff002', 'R'),
        (3, 'looking', 'model-3', 1, '3d9bd6bd-4b0c-4b72-8f0e-0b1c8a3ff003', 'D')";

const DOORS: &str = "3d9bd6bd-4b0c-4b72-8f0e-0b1c8a3ff001";
const GATES: &str = "3d9bd6bd-4b0c-4b72-8f0e-0b1c8a3ff002";
const LOOKING: &str = "3d9bd6bd-4b0c-4b72-8f0e-0b1c8a3ff003";

fn database_url(data: &Path, database: &str) -> String {
    format!("postgres://faceid@localhost/{database}?host={}", data.join("run").display())
}

/// A new database beside that of a server.
async fn other_database(data: &Path, name: &str) -> PgConnection {
    let mut own = PgConnection::connect(&database_url(data, "faceid")).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut own).await.unwrap();
    PgConnection::connect(&database_url(data, name)).await.unwrap()
}

fn migrate(data: &Path, arguments: &[&str]) -> Command {
    let mut command = faceid();
    command.arg("migrate-from").args(arguments).arg("--data-dir").arg(data).arg("--json");
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The outcome of a migration, and whether nothing was refused.
#[track_caller]
fn outcome(mut command: Command) -> (Value, bool) {
    let output = command.output().unwrap();
    let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    (said, output.status.success())
}

/// The lines of a report by their codes.
fn report(file: &Path) -> BTreeMap<String, Vec<Value>> {
    let mut lines: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        lines.entry(line["code"].as_str().unwrap().to_owned()).or_default().push(line);
    }
    lines
}

/// Who was found, best first, with the key of a caller.
async fn best(app: &TestApp, key: Option<&str>, gallery: &str, photo: &[u8]) -> Result<String, StatusCode> {
    let form = Form::new().part("image", part(photo)).text("gallery", gallery.to_owned()).text("max_faces", "1");
    let mut request = app.client.post(format!("{}/identify", app.url)).multipart(form);
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    let answer = app.send(request).await;
    if answer.status != StatusCode::OK {
        return Err(answer.status);
    }
    let found: Identified = answer.json();
    Ok(found.faces[0].matches.first().map_or_else(String::new, |found| found.subject.clone()))
}

async fn embedding(app: &TestApp, photo: &[u8]) -> Vec<f64> {
    let form = Form::new().part("image", part(photo)).text("max_faces", "1");
    let answer: Value = app.post_form("/embed", form).await.json();
    serde_json::from_value(answer["faces"][0]["embedding"].clone()).unwrap()
}

/// The photos of lfw100 twice each as examples: of eight people in one service, of the others in another. Returns the ids of the
/// examples by service.
async fn fill_compreface(app: &TestApp, database: &mut PgConnection) -> BTreeMap<&'static str, BTreeSet<Uuid>> {
    sqlx::raw_sql(COMPREFACE).execute(&mut *database).await.unwrap();
    let mut examples: BTreeMap<&str, BTreeSet<Uuid>> = BTreeMap::new();
    for (number, (person, files)) in photos::people(&photos::folder("lfw100")).into_iter().enumerate() {
        let service = if number < 8 { DOORS } else { GATES };
        let subject = Uuid::new_v4();
        // White space around a name is no part of it here.
        let named = if number == 0 { format!(" {person}") } else { person };
        sqlx::query("insert into subject values ($1, $2, $3)")
            .bind(subject)
            .bind(service)
            .bind(named)
            .execute(&mut *database)
            .await
            .unwrap();
        for file in files {
            let (photo, image) = (photos::read(&file), Uuid::new_v4());
            let embedding = embedding(app, &photo).await;
            sqlx::query("insert into img values ($1, $2)")
                .bind(image)
                .bind(photo)
                .execute(&mut *database)
                .await
                .unwrap();
            for _ in 0..2 {
                let example = Uuid::new_v4();
                sqlx::query("insert into embedding values ($1, $2, $3, 'facenet.Calculator@20180402-114759', $4)")
                    .bind(example)
                    .bind(subject)
                    .bind(&embedding)
                    .bind(image)
                    .execute(&mut *database)
                    .await
                    .unwrap();
                examples.entry(service).or_default().insert(example);
            }
        }
    }
    examples
}

/// What cannot be taken over, and somebody without an example.
async fn add_oddities(database: &mut PgConnection) {
    let torn = photos::read(&photos::files(&photos::folder("bad")).pop().unwrap());
    sqlx::query("insert into img values ('00000000-0000-4000-8000-000000000001', $1)")
        .bind(torn)
        .execute(&mut *database)
        .await
        .unwrap();
    sqlx::raw_sql(
        "insert into subject values
            ('00000000-0000-4000-8000-00000000000a', '3d9bd6bd-4b0c-4b72-8f0e-0b1c8a3ff001', 'Nobody yet'),
            ('00000000-0000-4000-8000-00000000000b', '3d9bd6bd-4b0c-4b72-8f0e-0b1c8a3ff001', E'two\\nlines'),
            ('00000000-0000-4000-8000-00000000000c', '00000000-0000-0000-0000-000000000002', 'Shown once');
         insert into embedding values
            ('00000000-0000-4000-8000-0000000000e1', '00000000-0000-4000-8000-00000000000b', '{1,0}', 'x', null),
            ('00000000-0000-4000-8000-0000000000e2', '00000000-0000-4000-8000-00000000000c', '{1,0}', 'Facenet2018', null),
            ('00000000-0000-4000-8000-0000000000e3', '00000000-0000-4000-8000-00000000000c', '{1,0}', 'Facenet2018',
                '00000000-0000-4000-8000-000000000001')",
    )
    .execute(database)
    .await
    .unwrap();
}

async fn face_ids(own: &mut PgConnection, gallery: &str) -> BTreeSet<Uuid> {
    let ids: Vec<Uuid> =
        sqlx::query_scalar("select f.id from faces f join galleries g on g.id = f.gallery_id where g.name = $1")
            .bind(gallery)
            .fetch_all(own)
            .await
            .unwrap();
    ids.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn compreface_is_taken_over_once_though_it_is_killed_on_the_way() {
    let (data, files) = (data_dir(), data_dir());
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let mut database = other_database(data.path(), "frs").await;
    let examples = fill_compreface(&app, &mut database).await;
    add_oddities(&mut database).await;
    let mut own = PgConnection::connect(&database_url(data.path(), "faceid")).await.unwrap();
    let url = database_url(data.path(), "frs");

    let arguments = ["compreface", "--from", &url, "--jobs", "1"];
    let mut first = migrate(data.path(), &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let before = eventually(Duration::from_secs(120), "faces of the first run", async || {
        let count: i64 = sqlx::query_scalar("select count(*) from faces").fetch_one(&mut own).await.unwrap();
        (count > 0).then_some(count)
    })
    .await;
    first.kill().unwrap();
    first.wait().unwrap();
    assert!((1..200).contains(&before), "{before} faces when it was killed");
    // No key before the faces.
    let keys: i64 = sqlx::query_scalar("select count(*) from keys").fetch_one(&mut own).await.unwrap();
    assert_eq!(keys, 0);

    let lines = files.path().join("report.jsonl");
    let second = ["compreface", "--report", lines.to_str().unwrap(), "--compare", "50"];
    let mut command = migrate(data.path(), &second);
    command.env("FACEID_MIGRATE_FROM", &url);
    let (done, is_whole) = outcome(command);
    let count = |name: &str| done[name].as_i64().unwrap();
    assert!(!is_whole);
    // A batch may have come between the count and the kill.
    assert!(count("already_there") >= before, "{done}");
    assert_eq!(count("already_there") + count("taken_over"), 200, "{done}");
    assert_eq!(done["reasons"], json!({"corrupt_image": 1, "invalid_name": 1, "no_image": 1}), "{done}");
    assert_eq!(face_ids(&mut own, "doors").await, examples[DOORS]);
    assert_eq!(face_ids(&mut own, "gates").await, examples[GATES]);
    let compared = &done["comparison"];
    let compared = |name: &str| compared[name].as_i64().unwrap();
    assert_eq!(compared("probes") + compared("not_comparable"), 50, "{done}");
    assert_eq!(compared("same") + compared("changed"), compared("probes"));
    assert_eq!(compared("right_after"), compared("probes"), "each has a twin: {done}");
    let lines = report(&lines);
    assert_eq!(lines.get("decision_changed").map_or(0, Vec::len) as i64, compared("changed"));
    assert_eq!(lines["no_image"][0]["identity"], "00000000-0000-4000-8000-0000000000e2");
    assert_eq!(lines["invalid_name"][0]["subject"], "two\nlines");
    assert_eq!(lines["corrupt_image"][0]["gallery"], "Demo");

    let subjects: Vec<(String, i64)> = sqlx::query_as(
        "select s.name, count(f.id) from subjects s join galleries g on g.id = s.gallery_id left join faces f on f.subject_id = s.id \
         where g.name in ('doors', 'gates') group by s.id",
    )
    .fetch_all(&mut own)
    .await
    .unwrap();
    assert_eq!(subjects.len(), 11);
    for (name, faces) in &subjects {
        assert_eq!(*faces, if name == "Nobody yet" { 0 } else { 20 }, "{name}");
        assert_eq!(name.trim(), name);
    }

    let outcomes: Vec<&str> =
        done["keys"].as_array().unwrap().iter().map(|key| key["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["known_to_all", "taken_over", "taken_over", "taken_over"]);
    let probe = &photos::people(&photos::folder("lfw100"))[2];
    let photo = photos::read(&probe.1[3]);
    eventually(Duration::from_secs(30), "the server asks for keys", async || {
        (best(&app, None, "doors", &photo).await == Err(StatusCode::UNAUTHORIZED)).then_some(())
    })
    .await;
    assert_eq!(best(&app, Some(DOORS), "doors", &photo).await.as_ref(), Ok(&probe.0));
    assert_eq!(best(&app, Some(GATES), "doors", &photo).await, Err(StatusCode::NOT_FOUND));
    assert_eq!(best(&app, Some(LOOKING), "looking", &photo).await, Ok(String::new()));

    // Again, there is nothing to do.
    let (done, _) = outcome(migrate(data.path(), &["compreface", "--from", &url, "--compare", "0"]));
    assert_eq!((&done["taken_over"], &done["already_there"]), (&0.into(), &200.into()));
    assert!(done["keys"].as_array().unwrap()[1..].iter().all(|key| key["outcome"] == "already_there"), "{done}");
    // An example keeps its gallery.
    let elsewhere = ["compreface", "--from", &url, "--service", "gates", "--gallery", "others", "--no-keys"];
    let (done, _) = outcome(migrate(data.path(), &elsewhere));
    assert_eq!(done["reasons"], json!({"exists_elsewhere": 40}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn a_database_of_somebody_else_is_refused_without_its_password() {
    let data = data_dir();
    let _server = Server::start(data.path(), &[]).await;
    let says = |url: &str| {
        let output = migrate(data.path(), &["compreface", "--from", url]).output().unwrap();
        assert!(!output.status.success());
        text(&output)
    };
    let said = says(&database_url(data.path(), "faceid"));
    assert!(said.contains("none of CompreFace: it has no table \"app\""), "{said}");
    for url in ["postgres://someone:a-secret@127.0.0.1:1/frs", "http://someone:a-secret@127.0.0.1/frs"] {
        let said = says(url);
        assert!(said.contains("--from") && !said.contains("a-secret"), "{said}");
    }
}

/// Photos of the first people of lfw100, copied to where `place` says, by person and number from 1.
fn copies(people: usize, each: usize, place: impl Fn(&str, usize) -> PathBuf) {
    for (person, files) in photos::people(&photos::folder("lfw100")).into_iter().take(people) {
        for (number, file) in files.iter().take(each).enumerate() {
            let to = place(&person, number + 1);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(file, to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn folders_and_tables_are_taken_over() {
    let (data, files) = (data_dir(), data_dir());
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let at = |name: &str| files.path().join(name);
    let people = photos::people(&photos::folder("lfw100"));
    let (first, photo) = (&people[0].0, photos::read(&people[0].1[5]));

    copies(2, 2, |person, number| at("folders").join(person).join(format!("{number}.jpg")));
    std::fs::write(at("folders").join(first).join("note.txt"), "none").unwrap();
    let folders = at("folders");
    let arguments = ["folder", "--from", folders.to_str().unwrap(), "--gallery", "folders"];
    let (done, is_whole) = outcome(migrate(data.path(), &arguments));
    assert_eq!((&done["taken_over"], &done["subjects_created"], is_whole), (&4.into(), &2.into(), false));
    assert_eq!(done["reasons"], json!({"unsupported_image": 1}));
    assert_eq!(best(&app, None, "folders", &photo).await.as_ref(), Ok(first));
    // Elsewhere it is the same folder.
    std::fs::rename(&folders, at("moved")).unwrap();
    std::fs::remove_file(at("moved").join(first).join("note.txt")).unwrap();
    let moved = at("moved");
    let arguments = ["folder", "--from", moved.to_str().unwrap(), "--gallery", "folders"];
    let (done, is_whole) = outcome(migrate(data.path(), &arguments));
    assert_eq!((&done["taken_over"], &done["already_there"], is_whole), (&0.into(), &4.into(), true));

    copies(2, 2, |person, number| at("flat").join(format!("{person}_{number:04}.jpg")));
    let flat = at("flat");
    let arguments = ["folder", "--flat", "--from", flat.to_str().unwrap(), "--gallery", "flat"];
    let (done, is_whole) = outcome(migrate(data.path(), &arguments));
    assert_eq!((&done["taken_over"], &done["subjects_created"], is_whole), (&4.into(), &2.into(), true));

    let table = at("people.csv");
    let id = Uuid::new_v4();
    let url = url::Url::from_file_path(at("flat").join(format!("{first}_0002.jpg"))).unwrap();
    let lines = format!(
        "subject,photo,id,metadata,gallery\n\
         Ada,flat/{first}_0001.jpg,{id},\"{{\"\"badge\"\": 7}}\",\n\
         Ada,{url},,,guests\n\
         Bob,https://example.org/bob.jpg,,,\n\
         Bob,flat/nowhere.jpg,,,\n"
    );
    std::fs::write(&table, lines).unwrap();
    let (done, is_whole) =
        outcome(migrate(data.path(), &["csv", "--from", table.to_str().unwrap(), "--gallery", "table"]));
    assert_eq!(done["galleries"], json!({"guests": 1, "table": 1}));
    assert_eq!((&done["reasons"], is_whole), (&json!({"no_file": 1, "not_local": 1}), false));
    let face: Value = app.get(&format!("/faces/{id}")).await.json();
    assert_eq!((&face["subject"], &face["metadata"]), (&"Ada".into(), &json!({"badge": 7})));
}

/// What DeepFace pickles of photos: a list of dictionaries with a path and an embedding of three numbers.
fn pickle(identities: &[String]) -> Vec<u8> {
    let text = |text: &str| [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let mut bytes = b"\x80\x02]".to_vec();
    for identity in identities {
        let number = [b"G".as_slice(), &0.5_f64.to_be_bytes()].concat();
        let row = [text("identity"), text(identity), text("hash"), text("x"), text("embedding"), b"](".to_vec()];
        bytes.extend(b"}(".iter().chain(row.concat().iter()));
        bytes.extend(number.repeat(3));
        bytes.extend(b"eua");
    }
    bytes.push(b'.');
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn deepface_is_taken_over_from_pickles_and_databases() {
    let (data, files) = (data_dir(), data_dir());
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let at = |name: &str| files.path().join(name);
    let people = photos::people(&photos::folder("lfw100"));
    let (first, photo) = (&people[0].0, photos::read(&people[0].1[5]));
    copies(2, 2, |person, number| at("db").join(person).join(format!("{number}.jpg")));

    let there = people[..2].iter().flat_map(|(person, _)| [1, 2].map(|n| format!("/srv/photos/{person}/{n}.jpg")));
    let identities: Vec<String> = there.chain(["/srv/photos/Gone/1.jpg".to_owned()]).collect();
    let store = at("db").join("ds_model_vggface.pkl");
    std::fs::write(&store, pickle(&identities)).unwrap();
    let (done, is_whole) =
        outcome(migrate(data.path(), &["deepface", "--from", store.to_str().unwrap(), "--gallery", "pickle"]));
    assert_eq!((&done["taken_over"], &done["subjects_created"], is_whole), (&4.into(), &2.into(), false));
    assert_eq!(done["reasons"], json!({"embedding_of_other_model": 1}));
    assert_eq!(best(&app, None, "pickle", &photo).await.as_ref(), Ok(first));

    let (program, proof) = (at("program.pkl"), at("proof"));
    let run = format!("cos\nsystem\n(S'touch {}'\ntR.", proof.display());
    std::fs::write(&program, run).unwrap();
    let output = migrate(data.path(), &["deepface", "--from", program.to_str().unwrap()]).output().unwrap();
    assert!(!output.status.success() && text(&output).contains("none is run here"), "{}", text(&output));
    assert!(!proof.exists());

    let mut database = other_database(data.path(), "deepface").await;
    sqlx::raw_sql(
        "create table embeddings (id bigserial primary key, img_name text not null, face bytea not null, face_shape int[] not null, \
         model_name text not null, detector_backend text not null, aligned boolean default true, l2_normalized boolean default false, \
         embedding float8[] not null, created_at timestamptz default now(), face_hash text not null, embedding_hash text not null)",
    )
    .execute(&mut database)
    .await
    .unwrap();
    // As DeepFace crops: the middle of a photo of LFW, in floats, blue first; and one in which there is no face to find.
    let crop = image::load_from_memory(&photo).unwrap().crop_imm(60, 55, 130, 140).to_rgb8();
    let floats = |image: &image::RgbImage| {
        let values = image.pixels().flat_map(|pixel| [pixel.0[2], pixel.0[1], pixel.0[0]]);
        values.flat_map(|value| (f32::from(value) / 255.0).to_le_bytes()).collect::<Vec<u8>>()
    };
    let grey = image::RgbImage::from_pixel(64, 64, image::Rgb([128; 3]));
    for (name, image) in [(format!("db/{first}/5.jpg"), &crop), ("Grey".to_owned(), &grey)] {
        let (width, height) = image.dimensions();
        sqlx::query("insert into embeddings values (default, $1, $2, $3, 'VGG-Face', 'opencv', true, false, '{1}', default, '', '')")
            .bind(name)
            .bind(floats(image))
            .bind(vec![height.cast_signed(), width.cast_signed(), 3])
            .execute(&mut database)
            .await
            .unwrap();
    }
    let url = database_url(data.path(), "deepface");
    let (done, is_whole) = outcome(migrate(data.path(), &["deepface", "--from", &url, "--gallery", "database"]));
    assert_eq!((&done["taken_over"], &done["whole_crops"], is_whole), (&2.into(), &1.into(), true), "{done}");
    let photo = photos::read(&people[0].1[0]);
    assert_eq!(best(&app, None, "database", &photo).await.as_ref(), Ok(first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn answers_of_insightface_rest_are_taken_over() {
    let (data, files) = (data_dir(), data_dir());
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let people = photos::people(&photos::folder("lfw100"));
    let mut answers = Vec::new();
    for (person, photos_of) in &people[..3] {
        let form =
            Form::new().part("image", part(&photos::read(&photos_of[0]))).text("max_faces", "1").text("return", "chip");
        let answer: Value = app.post_form("/embed", form).await.json();
        let (chip, vector) = (&answer["faces"][0]["chip"], &answer["faces"][0]["embedding"]);
        let is_jpeg = STANDARD.decode(chip.as_str().unwrap()).unwrap().starts_with(b"\xff\xd8\xff");
        assert!(is_jpeg);
        let face = json!({"num_det": 0, "prob": 0.9, "bbox": [60, 60, 180, 190], "size": 120, "vec": vector, "facedata": chip});
        answers.push((person, json!({"took": {"total_ms": 5.0}, "data": [{"status": "ok", "faces": [face]}]})));
    }
    std::fs::create_dir(files.path().join(answers[0].0)).unwrap();
    std::fs::write(files.path().join(answers[0].0).join("1.json"), answers[0].1.to_string()).unwrap();
    std::fs::write(files.path().join(format!("{}_0001.json", answers[1].0)), answers[1].1.to_string()).unwrap();
    let mut named = answers[2].1.clone();
    named["subject"] = json!(answers[2].0);
    let mut bare = answers[2].1.clone();
    bare["data"][0]["faces"][0].as_object_mut().unwrap().remove("facedata");
    let none = json!({"data": [{"status": "failed", "faces": []}]});
    std::fs::write(files.path().join("all.jsonl"), format!("{named}\n{bare}\n{none}\n")).unwrap();

    let from = files.path().to_str().unwrap();
    let arguments = ["insightface-server", "--from", from, "--gallery", "answers"];
    let (done, is_whole) = outcome(migrate(data.path(), &arguments));
    assert_eq!((&done["taken_over"], &done["subjects_created"], is_whole), (&3.into(), &3.into(), false), "{done}");
    assert_eq!(done["reasons"], json!({"embedding_of_other_model": 1, "no_face": 1}));
    for (person, photos_of) in &people[..3] {
        assert_eq!(best(&app, None, "answers", &photos::read(&photos_of[4])).await.as_ref(), Ok(person));
    }
    // As SQLite writes what InsightFace Server keeps: the box of a face, resized; and a collection without crops.
    let photo = image::load_from_memory(&photos::read(&people[3].1[0])).unwrap();
    let crop = photo.crop_imm(70, 65, 110, 120).resize_exact(112, 112, image::imageops::FilterType::Triangle);
    let mut file = std::io::Cursor::new(Vec::new());
    crop.write_to(&mut file, image::ImageFormat::Jpeg).unwrap();
    let id = Uuid::new_v4();
    let sample = json!({"subject": people[3].0, "gallery": "samples", "face_id": id, "crop": faceid::types::hex(file.get_ref()),
        "embedding": "0000803F", "metadata": {"badge": 7}, "created_at": "2026-07-27T10:00:00+00:00"});
    let bare = json!({"subject": "Nobody", "gallery": "samples", "face_id": Uuid::new_v4(), "crop": "", "embedding": "0000803F"});
    let samples = files.path().join("samples.jsonl");
    std::fs::write(&samples, format!("{sample}\n{bare}\n")).unwrap();
    let (done, _) = outcome(migrate(data.path(), &["insightface-server", "--from", samples.to_str().unwrap()]));
    assert_eq!(
        (&done["galleries"], &done["reasons"]),
        (&json!({"samples": 1}), &json!({"embedding_of_other_model": 1}))
    );
    let face: Value = app.get(&format!("/faces/{id}")).await.json();
    assert_eq!((&face["subject"], &face["metadata"]), (&people[3].0.as_str().into(), &json!({"badge": 7})));
    assert_eq!(best(&app, None, "samples", &photos::read(&people[3].1[4])).await.as_ref(), Ok(&people[3].0));
    std::fs::remove_file(&samples).unwrap();
    // Numbers count if it is said that a model of ours made them.
    let model = done["model"].as_str().unwrap();
    let arguments = ["insightface-server", "--from", from, "--gallery", "answers", "--model", model];
    let (done, _) = outcome(migrate(data.path(), &arguments));
    assert_eq!((&done["taken_over"], &done["already_there"]), (&1.into(), &3.into()), "{done}");
}
