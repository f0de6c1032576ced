//! Files that people really send: photos, archives and networks of every making.
//!
//! They are beside the folder of photos; `FACEID_TEST_CASES` says where.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use faceid::http::Code;
use faceid::service::answers::{EmbeddedFace, Enrolled, Job, ModelEntry};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use zip::ZipArchive;

use crate::real_photos::similarity;
use crate::support::models::model_form;
use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, photos};

pub fn case(name: &str) -> Vec<u8> {
    let beside = || photos::folder("lfw100").join("../../cases");
    let folder = std::env::var_os("FACEID_TEST_CASES").map_or_else(beside, PathBuf::from);
    photos::read(&folder.join(name))
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn files_of_every_making_are_the_photo() {
    let app = TestApp::start().await;
    let expected = app.embedded(&case("src.jpg")).await.remove(0);
    let whole = [
        "ori_short.jpg",
        "ori_long.jpg",
        "ori_byte.jpg",
        "o_slong.jpg",
        "o_count2.jpg",
        "ori_before.png",
        "ori_after.png",
        "o_prefix_exif.png",
        "base_noeoi.jpg",
        "prog_noeoi.jpg",
        "base_junk.jpg",
        "prog_junk.jpg",
        "sef_pano.jpg",
        "sef_eoi.jpg",
        "sos000.jpg",
        "zeros_hdr.jpg",
        "crc_phys.png",
        "alpha0_small.bmp",
        "alpha0_small_control.bmp",
    ];
    for name in whole {
        same_photo(&app, name, &expected, 0.9).await;
    }
    // It says that its upright pixels lie on their side, and viewers turn them: so the face is found lying.
    let faces = app.embedded(&case("im.png")).await;
    assert_eq!((faces.len(), faces[0].face.turned), (1, 90));
    assert!(similarity(&faces[0], &expected) >= 0.9);
    // Colours or bits were lost.
    for name in ["t_pal.tif", "t_ycc_small.tif", "t_f32_small.tif", "t_g4.tif", "t_jpeg.tif"] {
        same_photo(&app, name, &expected, 0.41).await;
    }
}

async fn same_photo(app: &TestApp, name: &str, expected: &EmbeddedFace, least: f32) {
    let faces = app.embedded(&case(name)).await;
    assert_eq!(faces.len(), 1, "{name}");
    let (similarity, roll) = (similarity(&faces[0], expected), faces[0].face.quality.pose.roll);
    assert!(similarity >= least, "{name}: {similarity}");
    assert!(roll.abs() < 15.0 && faces[0].face.turned == 0, "{name}: {roll}");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn what_is_no_whole_photo_is_refused() {
    let app = TestApp::start().await;
    for name in ["cut.jpg", "crc_idat.png"] {
        app.enroll("Nobody", &case(name)).await.expect_problem(422, Code::CorruptImage);
    }
    let answer = app.enroll("Nobody", &case("sub_cfa.nef")).await;
    match answer.status {
        // The large picture, never the thumbnail of 160 pixels.
        StatusCode::CREATED => assert!(answer.json::<Enrolled>().face.bounding_box.width > 160.0),
        _ => {
            let problem = answer.expect_problem(415, Code::UnsupportedImage);
            assert!(problem.detail.contains("raw"), "{}", problem.detail);
        }
    }
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn heic_is_read() {
    let app = TestApp::start().await;
    let seen = app.detected(&case("real.heic"), "").await;
    assert!(seen.width > 0 && seen.height > 0);
}

/// What became of the photos of an archive: people with their faces, and refusals.
async fn imported(archive: &str) -> (Vec<(String, u64)>, Value) {
    let app = TestApp::start().await;
    let answer = app.upload(case(archive)).await;
    answer.expect(StatusCode::ACCEPTED);
    let job: Job = app.finished(answer.json()).await;
    (app.people().await, job.result.unwrap()["refusals"].clone())
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn every_photo_of_an_archive_is_accounted_for() {
    let person = |name: &str, faces| (name.to_owned(), faces);
    let nested = |path: &str| json!({ "path": path, "code": "nested_folder" });
    let (people, refusals) = imported("sub.zip").await;
    assert_eq!((people, refusals), (vec![person("Ada", 2)], json!([nested("Ada/originals/3.jpg")])));

    let (people, refusals) = imported("mixed.zip").await;
    assert_eq!(people, [person("Ada", 1)]);
    assert_eq!(refusals, json!([nested("people/Ada/2024/2.jpg"), nested("people/Bob/2024/1.jpg")]));

    // Names in a character set that the archive does not tell: refused by name, rather than guessed.
    let (people, refusals) = imported("latin1.zip").await;
    let unreadable = |path: &str| json!({ "path": path, "code": "unreadable_name" });
    let paths = ["Jos\\xe8/1.jpg", "Jos\\xe8/2.jpg", "Jos\\xe9/1.jpg", "Jos\\xe9/2.jpg"];
    assert_eq!((people, refusals), (vec![], json!(paths.map(unreadable))));

    // Photos are told by their content: these are HEIC, and damaged.
    let (people, refusals) = imported("heic.zip").await;
    assert!(people.is_empty());
    let codes: Vec<&str> = refusals.as_array().unwrap().iter().filter_map(|refusal| refusal["code"].as_str()).collect();
    assert_eq!(codes, ["corrupt_image"; 2]);
}

/// The files of an archive on a disk, with the bytes of their names.
fn unpacked(archive: &str) -> TempDir {
    let folder = data_dir();
    let mut zip = ZipArchive::new(Cursor::new(case(archive))).unwrap();
    for index in 0..zip.len() {
        let mut file = zip.by_index(index).unwrap();
        let path = folder.path().join(OsStr::from_bytes(file.name_raw()));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::io::copy(&mut file, &mut File::create(path).unwrap()).unwrap();
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the test photos"]
async fn a_folder_is_accounted_for_as_an_archive_is() {
    for (archive, enrolled, left_out) in [
        ("sub.zip", 2, vec!["nested_folder"]),
        ("mixed.zip", 1, vec!["nested_folder"; 2]),
        ("latin1.zip", 0, vec!["unreadable_name"; 4]),
        ("split.zip", 0, vec!["nested_folder"; 3]),
    ] {
        let app = TestApp::start().await;
        let folder = unpacked(archive);
        std::fs::write(folder.path().join(".DS_Store"), "of macOS").unwrap();
        let enroll = || {
            let mut command = faceid();
            command.arg("enroll").arg(folder.path()).args(["--gallery", &app.gallery, "--server", &app.url, "--json"]);
            command.output().unwrap()
        };
        let output = enroll();
        assert!(!output.status.success(), "{archive}: {output:?}");
        if enrolled == 0 {
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(said.matches("left out: ").count(), left_out.len(), "{said}");
            assert!(said.contains("NAME/photo.jpg") && app.people().await.is_empty(), "{said}");
            continue;
        }
        let account: Value = serde_json::from_slice(&output.stdout).unwrap();
        let codes: Vec<&str> =
            account["left_out"].as_array().unwrap().iter().filter_map(|it| it["code"].as_str()).collect();
        assert_eq!((&account["enrolled"], codes), (&json!(enrolled), left_out), "{archive}: {account}");
        let people = app.people().await;
        assert_eq!(people, [("Ada".to_owned(), enrolled)], "{archive}");
        let again: Value = serde_json::from_slice(&enroll().stdout).unwrap();
        assert_eq!((&again["enrolled"], &again["already_there"]), (&json!(0), &json!(enrolled)), "{archive}: {again}");
        assert_eq!(app.people().await, people);
    }
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn an_archive_of_another_layout_is_refused_by_one_of_its_paths() {
    let app = TestApp::start().await;
    let problem = app.upload(case("split.zip")).await.expect_problem(422, Code::InvalidDataset);
    assert!(
        problem.detail.contains("people/train/Ada/1.jpg") && problem.detail.contains("NAME/photo.jpg"),
        "{}",
        problem.detail
    );
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn embedders_as_others_export_them_are_imported_or_refused_by_what_is_wrong() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let import = async |file: &str| {
        let form = model_form(case(file)).text("name", file.to_owned()).text("threshold", "0.4");
        app.post_form("/admin/models", form).await
    };
    for file in ["ok.onnx", "two_out.onnx", "bn_spatial0.onnx", "gelu20.onnx", "qdq.onnx", "fp16.onnx", "nhwc.onnx"] {
        let answer = import(file).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{file}: {}", answer.text());
        assert_eq!(answer.json::<ModelEntry>().dimension, 64);
    }
    for (file, words) in [("ext.onnx", ["save_model", "models import"]), ("in160.onnx", ["160", "112"])] {
        let problem = import(file).await.expect_problem(422, Code::InvalidModel);
        assert!(words.iter().all(|word| problem.detail.contains(word)), "{file}: {}", problem.detail);
    }
}
