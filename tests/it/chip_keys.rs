//! Chips at rest: nobody reads one from the disk, a server needs its master key, and keys are changed while servers run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use faceid::http::Code;
use faceid::jobs::JobKind;
use faceid::service::answers::{Enrolled, Job, Page};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tempfile::TempDir;

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, eventually, photos};
use crate::upkeep::database;

/// Generous: machines are shared.
const WITHIN: Duration = Duration::from_secs(120);

const FORMER: &str = "6ad5b0aee2a5bd5bbfbd9c2b1c9ef0a98f5dcb2ba4a2dd47c02bbb7be1cb5c11";
/// In base64.
const NEWEST: &str = "cG9zdGdyZXMgbmV2ZXIgc2VlcyB0aGlzIG9uZSAhIQ0=";

/// A file with master keys, and its folder.
fn key_file(keys: &[&str]) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chip.key");
    std::fs::write(&file, keys.join("\n") + "\n").unwrap();
    let path = file.to_str().unwrap().to_owned();
    (folder, path)
}

/// Faces of some people with their chips.
async fn enroll(app: &TestApp) -> Vec<(Enrolled, Vec<u8>)> {
    let mut enrolled = Vec::new();
    for (person, files) in &photos::people(&photos::folder("lfw100"))[..3] {
        for file in &files[..2] {
            let face: Enrolled = app.enroll_largest(person, &photos::read(file)).await;
            let chip = chip_of(app, &face).await;
            assert!(chip.len() > 1000 && chip.starts_with(b"\xff\xd8"));
            enrolled.push((face, chip));
        }
    }
    enrolled
}

async fn chip_of(app: &TestApp, face: &Enrolled) -> Vec<u8> {
    let answer = app.get(&format!("/faces/{}/chip", face.face_id)).await;
    answer.expect(StatusCode::OK);
    answer.body.to_vec()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// Whether a file below a folder holds some of these bytes: 64 from one of three places, as PostgreSQL stores long values in
/// pieces.
fn is_on_disk(folder: &Path, bytes: &[u8]) -> bool {
    let mut all = Vec::new();
    files(folder, &mut all);
    let parts: Vec<&[u8]> = [1, 2, 3].map(|place| place * bytes.len() / 4).map(|at| &bytes[at..at + 64]).into();
    all.iter().any(|path| {
        let content = std::fs::read(path).unwrap_or_default();
        parts.iter().any(|part| content.windows(64).any(|window| window == *part))
    })
}

/// What a server says that does not start.
fn refusal(data: &Path, arguments: &[&str]) -> String {
    let output =
        faceid().args(["serve", "--bind", "127.0.0.1:0", "--data-dir"]).arg(data).args(arguments).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

/// What the job says of keys, when that is so and it has nothing to do.
async fn keys_are(app: &TestApp, what: &str, mut is: impl FnMut(&Value) -> bool) -> Value {
    eventually(WITHIN, what, async || {
        let jobs: Page<Job> = app.get("/admin/jobs").await.json();
        let job = jobs.items.into_iter().find(|job| job.kind == JobKind::Encrypt)?;
        assert!(job.recurring);
        let progress = job.progress.unwrap_or_default();
        (progress["stage"] == "idle" && is(&progress["state"])).then(|| progress["state"].clone())
    })
    .await
}

/// Makes a chip what it was before there were keys.
async fn make_plain(database: &mut PgConnection, face: &Enrolled, chip: &[u8]) {
    sqlx::query("delete from chip_keys where face_id = $1").bind(face.face_id.0).execute(&mut *database).await.unwrap();
    let update = "update faces set chip = $2 where id = $1";
    sqlx::query(update).bind(face.face_id.0).bind(chip).execute(database).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn no_chip_is_on_disk_and_a_server_needs_its_key() {
    let data = data_dir();
    let (_folder, file) = key_file(&[FORMER]);
    let given = ["--chip-key-file", file.as_str()];
    let mut server = Server::start(data.path(), &given).await;
    let app = TestApp::at(server.url.clone()).await;
    let enrolled = enroll(&app).await;
    server.terminate();
    assert!(server.ended().await.success());
    for (_, chip) in &enrolled {
        assert!(!is_on_disk(data.path(), chip));
    }
    let raw: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&FORMER[2 * at..2 * at + 2], 16).unwrap()).collect();
    let key_is_there = |path: &Path| {
        let mut all = Vec::new();
        files(path, &mut all);
        all.iter().any(|file| std::fs::read(file).unwrap_or_default().windows(32).any(|window| window == raw))
    };
    assert!(!key_is_there(data.path()));

    // Without the key, with another one, and with what is none.
    let said = refusal(data.path(), &[]);
    assert!(said.contains("FACEID_CHIP_KEY") && said.contains("none is given"), "{said}");
    let (_other, another) = key_file(&[NEWEST]);
    let said = refusal(data.path(), &["--chip-key-file", &another]);
    assert!(said.contains("master keys that are not given here") && !said.contains(NEWEST), "{said}");
    let (_none, none) = key_file(&["a password"]);
    let said = refusal(data.path(), &["--chip-key-file", &none]);
    assert!(said.contains("64 hexadecimal digits") && said.contains(&none) && !said.contains("a password"), "{said}");
    let said = refusal(data.path(), &["--chip-key-command", "echo oh; exit 7"]);
    assert!(said.contains("chip_key_command") && said.contains("7"), "{said}");
    let said = refusal(data.path(), &["--chip-key-file", &another, "--chip-key-command", "true"]);
    assert!(said.contains("say once where"), "{said}");
    let shown = faceid().args(["serve", "--print-config"]).env("FACEID_CHIP_KEY", FORMER).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("chip_key = \"***\"") && !shown.contains(FORMER), "{shown}");

    // A command on the database needs it as well, and an export is plain.
    let export = |arguments: &[&str]| {
        let mut command = faceid();
        command.args(["export", "-", "--gallery", &app.gallery, "--data-dir"]).arg(data.path()).args(arguments);
        command.output().unwrap()
    };
    let refused = export(&[]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("FACEID_CHIP_KEY"));
    let exported = export(&given);
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let there = data_dir();
    let gallery = there.path().join("gallery.jsonl");
    std::fs::write(&gallery, &exported.stdout).unwrap();
    let mut import = faceid();
    let imported = import.arg("import").arg(&gallery).arg("--data-dir").arg(there.path()).output().unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    std::fs::remove_file(&gallery).unwrap();
    // There no master key is given: the chips are encrypted all the same.
    for (_, chip) in &enrolled {
        assert!(!is_on_disk(there.path(), chip));
    }
    let server = Server::start(there.path(), &[]).await;
    let moved = TestApp { client: app.client.clone(), url: server.url.clone(), gallery: app.gallery.clone() };
    for (face, chip) in &enrolled {
        assert!(chip_of(&moved, face).await == *chip);
    }
    let keys = keys_are(&moved, "the job has looked", |_| true).await;
    assert_eq!(keys, json!({"plain_chips": 0, "keys": {"none": 6}, "newest": null}));
    // What is looked for can be found: so a plain chip looks.
    let mut connection = database(there.path()).await;
    make_plain(&mut connection, &enrolled[0].0, &enrolled[0].1).await;
    sqlx::query("checkpoint").execute(&mut connection).await.unwrap();
    assert!(is_on_disk(there.path(), &enrolled[0].1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn keys_are_changed_and_old_databases_encrypted_while_servers_run() {
    let data = data_dir();
    let start = async |set: (&str, &str)| {
        let mut command = faceid();
        command.env(set.0, set.1);
        let server = Server::start_from(command, Stdio::null(), data.path(), &["--job-lease", "1"]).await;
        let app = TestApp { client: reqwest::Client::new(), url: server.url.clone(), gallery: "default".to_owned() };
        (server, app)
    };
    let (mut server, app) = start(("FACEID_CHIP_KEY", FORMER)).await;
    let enrolled = enroll(&app).await;
    let mut connection = database(data.path()).await;
    // Two are of before; and many of nobody, so that the job has something to do.
    for (face, chip) in &enrolled[..2] {
        make_plain(&mut connection, face, chip).await;
        assert!(chip_of(&app, face).await == *chip);
    }
    let many = "with nobody as (insert into subjects (id, gallery_id, name) \
          select gen_random_uuid(), id, 'nobody' from galleries where name = 'default' returning id, gallery_id) \
        insert into faces (id, gallery_id, subject_id, chip, image_sha256) \
          select gen_random_uuid(), gallery_id, id, convert_to(repeat(n::text, 500), 'UTF8'), sha256(n::text::bytea) \
          from nobody, generate_series(1000, 4999) n";
    sqlx::query(many).execute(&mut connection).await.unwrap();
    drop(connection);
    server.kill();

    // Whoever works on it dies in between.
    let (_both, file) = key_file(&["# the new one", NEWEST, FORMER]);
    let (mut server, _) = start(("FACEID_CHIP_KEY_FILE", &file)).await;
    let mut connection = database(data.path()).await;
    let keys = async |connection: &mut PgConnection| -> i64 {
        sqlx::query_scalar("select count(*) from chip_keys").fetch_one(connection).await.unwrap()
    };
    eventually(WITHIN, "the job has begun", async || (keys(&mut connection).await > 300).then_some(())).await;
    server.kill();
    drop(connection);
    let (server, app) = start(("FACEID_CHIP_KEY_FILE", &file)).await;
    let mut connection = database(data.path()).await;
    let state = keys_are(&app, "all keys are under the new one", |state| {
        state["plain_chips"] == 0 && state["keys"].as_object().is_some_and(|keys| keys.len() == 1)
    })
    .await;
    let newest = state["newest"].as_str().unwrap().to_owned();
    assert_eq!(state["keys"], json!({newest.clone(): 4006}));
    let torn = "select count(*) from faces f where (substring(chip from 1 for 4) = '\\x00666301') is distinct from \
                exists (select from chip_keys k where k.face_id = f.id)";
    let torn: i64 = sqlx::query_scalar(torn).fetch_one(&mut connection).await.unwrap();
    assert_eq!(torn, 0);
    let metrics = app.get("/metrics").await.text();
    assert!(metrics.contains(&format!("faceid_chip_keys{{master=\"{newest}\"}} 4006")), "{metrics}");
    assert!(metrics.contains("faceid_plain_chips 0"), "{metrics}");
    drop(server);

    // The former one can be thrown away.
    let (_new, file) = key_file(&[NEWEST]);
    let (_server, app) = start(("FACEID_CHIP_KEY_COMMAND", &format!("cat {file}"))).await;
    for (face, chip) in &enrolled {
        assert!(chip_of(&app, face).await == *chip);
    }
    let nobody: (uuid::Uuid, Vec<u8>) = sqlx::query_as(
        "select f.id, f.image_sha256 from faces f where metadata = '{}' \
        and bounding_box is null order by id limit 1",
    )
    .fetch_one(&mut database(data.path()).await)
    .await
    .unwrap();
    let chip = app.get(&format!("/faces/{}/chip", nobody.0)).await;
    chip.expect(StatusCode::OK);
    let text = chip.text();
    assert_eq!((text.len(), &text[..4]), (2000, &text[1996..]));

    // One that is damaged is its own fault alone.
    let mut connection = database(data.path()).await;
    sqlx::query("update faces set chip = set_byte(chip, 100, 255 - get_byte(chip, 100)) where id = $1")
        .bind(enrolled[0].0.face_id.0)
        .execute(&mut connection)
        .await
        .unwrap();
    let problem =
        app.get(&format!("/faces/{}/chip", enrolled[0].0.face_id)).await.expect_problem(500, Code::ChipUnreadable);
    assert!(problem.detail.contains("damaged"), "{}", problem.detail);
    assert!(chip_of(&app, &enrolled[1].0).await == enrolled[1].1);
    // It is known to be somebody all the same, and can be enrolled anew.
    let erased = app.send(app.request(Method::DELETE, &format!("/faces/{}", enrolled[0].0.face_id))).await;
    erased.expect(StatusCode::OK);
}
