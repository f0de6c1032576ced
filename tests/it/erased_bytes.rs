//! Whoever is erased is gone from the files, too: no byte sequence of an embedding, a template or the key of a
//! chip is left in the data directory.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use faceid::evaluation::Random;
use faceid::service::answers::{Erased, ErasedMany, ErasureReceipt, ErasureState};
use faceid::signing::PublicKey;
use faceid::types::ErasureId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, eventually};
use crate::upkeep::database;

/// How long bytes are waited for to go, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(240);

const PEOPLE: usize = 1000;
const ERASED: usize = 200;

/// By `openssl genpkey -algorithm ed25519`, and `openssl pkey -pubout` of it.
const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIDKEw/o8wi630rGkgsdc7MuoXIk10n4fZd5NYjolMOj/\n-----END PRIVATE KEY-----\n";
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA1YVA2//PVAVB6b3iNTNYCKpe+GPPC8EBJYy+qaQoLus=\n-----END PUBLIC KEY-----\n";

/// Bytes of a piece that is looked for: as many as the key of a chip has.
const PIECE: usize = 32;

/// Pieces of bytes that are looked for, all at once.
struct Wanted {
    /// By their first eight bytes.
    pieces: HashMap<u64, Vec<[u8; PIECE]>>,
    /// Whether a piece begins with two bytes.
    begins: Vec<bool>,
}

impl Wanted {
    fn new(pieces: &[[u8; PIECE]]) -> Self {
        let mut wanted = Self { pieces: HashMap::new(), begins: vec![false; 1 << 16] };
        for piece in pieces {
            let start = u64::from_le_bytes(*piece.first_chunk().unwrap());
            wanted.pieces.entry(start).or_default().push(*piece);
            wanted.begins[start as usize & 0xffff] = true;
        }
        wanted
    }

    /// The files below a folder in which pieces are, and how many.
    fn found_in(&self, folder: &Path) -> HashMap<String, usize> {
        let mut found = HashMap::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            // Files of the database come and go.
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(self.found_in(&path));
            } else if path.is_file()
                && let Ok(bytes) = std::fs::read(&path)
            {
                let here = bytes.windows(PIECE).filter(|window| self.is_one(window)).count();
                if here > 0 {
                    found.insert(path.display().to_string(), here);
                }
            }
        }
        found
    }

    fn is_one(&self, window: &[u8]) -> bool {
        let start = u64::from_le_bytes(*window.first_chunk().unwrap());
        self.begins[start as usize & 0xffff]
            && self.pieces.get(&start).is_some_and(|pieces| pieces.iter().any(|piece| piece == window))
    }
}

/// A gallery of made people: embeddings of two faces each, as far as a network would tell them apart, and chips that are noise.
fn gallery_file(path: &Path, gallery: &str, dimension: usize) -> Vec<Vec<f32>> {
    let mut random = Random::new(7, 0);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    writeln!(file, "{}", json!({"faceid": 1, "gallery": gallery})).unwrap();
    let mut probes = Vec::new();
    for person in 0..PEOPLE {
        let centre: Vec<f64> = (0..dimension).map(|_| random.normal()).collect();
        for _ in 0..2 {
            let embedding: Vec<f64> = centre.iter().map(|number| number + 0.3 * random.normal()).collect();
            let noise = image::RgbImage::from_fn(112, 112, |_, _| {
                image::Rgb([0; 3].map(|_: u8| (random.normal() * 60.0 + 128.0) as u8))
            });
            let mut chip = Vec::new();
            noise.write_to(&mut std::io::Cursor::new(&mut chip), image::ImageFormat::Jpeg).unwrap();
            let line =
                json!({"subject": format!("made {person:04}"), "embedding": embedding, "chip": STANDARD.encode(chip)});
            writeln!(file, "{line}").unwrap();
        }
        probes.push(centre.into_iter().map(|number| number as f32).collect());
    }
    probes
}

/// The middle of some bytes.
fn piece(bytes: &[u8]) -> [u8; PIECE] {
    *bytes[bytes.len() / 2..].first_chunk().unwrap()
}

/// A vector as a page of the database has it, from what is sent of it: big-endian numbers after their count.
fn as_stored(sent: &[u8]) -> Vec<u8> {
    sent[4..].chunks_exact(2).flat_map(|half| [half[1], half[0]]).collect()
}

/// Pieces of what is stored of these subjects, and must be found: embeddings, templates, and the keys of chips, which there is no master
/// key for; and of their chips, which are encrypted, so that they must not be.
async fn pieces(database: &mut PgConnection, app: &TestApp, subjects: &[String]) -> [Vec<[u8; PIECE]>; 2] {
    let mut secrets = Vec::new();
    for table in ["embeddings", "templates"] {
        let sql = format!("select halfvec_send(embedding) from {table} where subject_id = any($1::text[]::uuid[])");
        let sent: Vec<Vec<u8>> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(subjects).fetch_all(&mut *database).await.unwrap();
        secrets.extend(sent.iter().map(|sent| piece(&as_stored(sent))));
    }
    let keys: Vec<Vec<u8>> = sqlx::query_scalar(
        "select k.key from chip_keys k join faces f on f.id = k.face_id where f.subject_id = any($1::text[]::uuid[])",
    )
    .bind(subjects)
    .fetch_all(&mut *database)
    .await
    .unwrap();
    secrets.extend(keys.iter().map(|key| <[u8; PIECE]>::try_from(key.as_slice()).unwrap()));
    let faces: Vec<String> =
        sqlx::query_scalar("select id::text from faces where subject_id = any($1::text[]::uuid[])")
            .bind(subjects)
            .fetch_all(database)
            .await
            .unwrap();
    let mut chips = Vec::new();
    for face in faces {
        let chip = app.get(&format!("/faces/{face}/chip")).await;
        chip.expect(StatusCode::OK);
        chips.push(piece(&chip.body));
    }
    [secrets, chips]
}

impl TestApp {
    async fn receipt(&self, id: ErasureId) -> ErasureReceipt {
        self.get(&format!("/erasures/{id}")).await.json()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn no_byte_of_who_was_erased_is_left_and_everybody_else_is_found() {
    let (data, files) = (data_dir(), data_dir());
    let key = files.path().join("signing.pem");
    std::fs::write(&key, PRIVATE_KEY).unwrap();
    let arguments = ["--job-lease", "1", "--signing-key", key.to_str().unwrap()];
    let mut server = Server::start(data.path(), &arguments).await;
    let app = TestApp { gallery: "made".to_owned(), ..TestApp::at(server.url.clone()).await };
    let model = app.get("/info").await.value()["model"].clone();
    let dimension = model["dimension"].as_u64().unwrap() as usize;
    let file = files.path().join("made.jsonl");
    let probes = gallery_file(&file, "made", dimension);
    let mut import = faceid();
    import.arg("import").arg(&file).args(["--model", model["name"].as_str().unwrap(), "--data-dir"]).arg(data.path());
    let import = import.output().unwrap();
    assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));

    let mut database = database(data.path()).await;
    let all: Vec<String> =
        sqlx::query_scalar("select s.id::text from subjects s order by name").fetch_all(&mut database).await.unwrap();
    let mut order: Vec<usize> = (0..PEOPLE).collect();
    let mut random = Random::new(11, 0);
    random.shuffle(&mut order);
    let (gone, stay) = order.split_at(ERASED);
    let ids = |some: &[usize]| some.iter().map(|number| all[*number].clone()).collect::<Vec<_>>();
    let doomed = ids(gone);
    let [secrets, chips] = pieces(&mut database, &app, &doomed).await;
    assert_eq!((secrets.len(), chips.len()), (5 * ERASED, 2 * ERASED));
    let [others, _] = pieces(&mut database, &app, &ids(&stay[..20])).await;
    sqlx::raw_sql("checkpoint").execute(&mut database).await.unwrap();
    let (secrets, chips, others) = (Wanted::new(&secrets), Wanted::new(&chips), Wanted::new(&others));
    // What is looked for can be found.
    assert!(secrets.found_in(data.path()).values().sum::<usize>() >= 5 * ERASED);
    assert_eq!(chips.found_in(data.path()), HashMap::new());
    drop(database);

    // A list, one by one, and by face.
    let answer = app.post_json("/delete/subjects", json!({"gallery": "made", "subjects": doomed[..150]})).await;
    let erased: ErasedMany = answer.json();
    assert_eq!((erased.subjects, erased.erasures.len(), erased.jobs.len()), (150, 1, 0));
    let mut receipts = erased.erasures;
    for subject in &doomed[150..] {
        let path = format!("/subjects/{subject}?gallery=made");
        let erased: Erased = app.send(app.request(Method::DELETE, &path)).await.json();
        assert_eq!((erased.subjects, erased.faces), (1, 2));
        receipts.push(erased.erasure);
    }
    server.kill();

    let server = Server::start(data.path(), &arguments).await;
    let app = TestApp { url: server.url.clone(), ..app };
    let mut positions = BTreeSet::new();
    let public = PublicKey::read(PUBLIC_KEY).unwrap();
    for id in &receipts {
        let receipt = eventually(PATIENCE, "the bytes are gone", async || {
            let receipt = app.receipt(*id).await;
            // The audit is sealed by itself, soon after the server began.
            let is_done = receipt.receipt.state == ErasureState::Gone && receipt.receipt.audit_position.is_some();
            is_done.then_some(receipt)
        })
        .await;
        let ErasureReceipt { receipt, signed } = receipt;
        assert!(receipt.elsewhere.is_empty() && receipt.rows_gone_at <= receipt.bytes_gone_at, "{receipt:?}");
        let signed = signed.unwrap();
        public.check(&signed.text, &signed.signature).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&signed.text).unwrap(), serde_json::to_value(&receipt).unwrap());
        positions.insert(receipt.audit_position.unwrap());
    }
    assert_eq!(positions.len(), receipts.len());
    let mut verify = faceid();
    let verify = verify.args(["audit", "verify", "--data-dir"]).arg(data.path()).output().unwrap();
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));
    assert_eq!(secrets.found_in(data.path()), HashMap::new());
    assert_eq!(chips.found_in(data.path()), HashMap::new());
    assert!(others.found_in(data.path()).values().sum::<usize>() >= 100);
    for number in 0..PEOPLE {
        let asked = json!({"gallery": "made", "embedding": probes[number], "top_k": 1});
        let found: Value = app.post_json("/identify/embedding", asked).await.value();
        let best = found["matches"][0]["subject_id"].as_str().unwrap_or_default();
        assert_eq!(best == all[number], stay.contains(&number), "{number}: {found}");
    }
}
