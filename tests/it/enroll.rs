//! Enrolling, identifying and verifying, the ways that callers send photos.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use faceid::http::Code;
use faceid::service::answers::{Detected, Enrolled, EnrolledFace, Identified, Verified};
use faceid::types::BoundingBox;
use image::{DynamicImage, ImageFormat};
use reqwest::multipart::Form;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{TestApp, part, photos};

const BUSH: &str = "George_W_Bush";
const BLAIR: &str = "Tony_Blair";

#[tokio::test]
#[ignore = "needs the test photos"]
async fn one_photo_is_enough() {
    let (first, second) = (photos::lfw(BUSH, 1), photos::lfw(BUSH, 2));
    let app = TestApp::start().await;
    let enrolled = app.enroll_largest("George W. Bush", &first).await;
    assert_eq!((enrolled.subject.as_str(), &enrolled.gallery), ("George W. Bush", &app.gallery));
    assert!(enrolled.duplicates.is_empty());
    let quality = enrolled.face.quality;
    assert!(quality.score > 0.3 && quality.eye_distance > 30.0 && quality.pose.yaw.abs() < 45.0, "{quality:?}");

    let answer: Identified = app.post_photo("/identify", &second).await.json();
    let best = &answer.faces[0].matches[0];
    assert!(answer.faces[0].known);
    assert_eq!((best.subject_id, best.face_id), (enrolled.subject_id, Some(enrolled.face_id)));
    assert!(best.similarity > answer.threshold && best.probability.unwrap() > 0.9, "{best:?}");

    let stranger: Identified = app.post_photo("/identify", &photos::lfw(BLAIR, 1)).await.json();
    assert!(!stranger.faces[0].known);
    assert!(stranger.faces[0].matches[0].probability.unwrap() < 0.1);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn top_k_counts_subjects_and_not_photos() {
    let probe = photos::lfw(BUSH, 5);
    let app = TestApp::start().await;
    for number in 1..=4 {
        app.enroll_largest(BUSH, &photos::lfw(BUSH, number)).await;
    }
    app.enroll_largest(BLAIR, &photos::lfw(BLAIR, 1)).await;
    let form = || Form::new().part("image", part(&probe)).text("gallery", app.gallery.clone());
    let two: Identified = app.post_form("/identify", form().text("top_k", "2")).await.json();
    let names: Vec<_> = two.faces[0].matches.iter().map(|found| found.subject.as_str()).collect();
    assert_eq!(names, [BUSH, BLAIR]);
    let one: Identified = app.post_form("/identify", form().text("top_k", "1")).await.json();
    assert_eq!(one.faces[0].matches.len(), 1);
    let strict: Identified = app.post_form("/identify", form().text("threshold", "0.999")).await.json();
    assert!(!strict.faces[0].known && strict.threshold > 0.99);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn all_three_ways_of_sending_give_one_answer() {
    let photo = photos::lfw(BUSH, 1);
    let app = TestApp::start().await;
    let text = BASE64_STANDARD.encode(&photo);
    let metadata = json!({"badge": 7});
    let subject = |name: &str| json!({"subject": name, "gallery": app.gallery, "metadata": metadata});
    let with_image = |name: &str, image: String| {
        let mut body = subject(name);
        body["image"] = image.into();
        app.request(Method::POST, "/enroll").json(&body)
    };
    let form = Form::new()
        .text("subject", "form")
        .text("gallery", app.gallery.clone())
        .text("metadata", metadata.to_string())
        .part("image", part(&photo));
    let raw = [("subject", "raw"), ("gallery", &app.gallery), ("metadata", &metadata.to_string())];
    let requests = [
        app.request(Method::POST, "/enroll").multipart(form),
        with_image("json", text.clone()),
        with_image("data", format!("data:image/jpeg;base64,{text}")),
        app.request(Method::POST, "/enroll").query(&raw).header("content-type", "image/jpeg").body(photo),
        // The body wins over the query string.
        with_image("body", text).query(&[("subject", "query")]),
    ];
    let mut boxes = Vec::new();
    for (request, name) in requests.into_iter().zip(["form", "json", "data", "raw", "body"]) {
        let answer = app.send(request).await;
        answer.expect(StatusCode::CREATED);
        let enrolled: Enrolled = answer.json();
        assert_eq!(enrolled.subject, name);
        let face: EnrolledFace = app.get(&format!("/faces/{}", enrolled.face_id)).await.json();
        assert_eq!(Value::Object(face.metadata), metadata);
        boxes.push(enrolled.face.bounding_box);
    }
    // A network may sum in another order for another batch.
    let near = |a: f32, b: f32| (a - b).abs() < 0.01;
    let same = |pair: &[BoundingBox]| near(pair[0].x, pair[1].x) && near(pair[0].width, pair[1].width);
    assert!(boxes.windows(2).all(same), "{boxes:?}");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_photo_is_the_same_in_every_format() {
    let photo = photos::lfw(BLAIR, 1);
    let app = TestApp::start().await;
    let image = image::load_from_memory(&photo).unwrap();
    let encode = |image: &DynamicImage, format| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    let original: Detected = app.post_photo("/detect", &photo).await.json();
    let sixteen_bit = DynamicImage::ImageRgb16(image.to_rgb16());
    let with_alpha = DynamicImage::ImageRgba8(image.to_rgba8());
    // Lying on its side, with the EXIF orientation that says so.
    let turned = with_orientation(&encode(&image.rotate270(), ImageFormat::Jpeg), 6);
    for (what, bytes) in [
        ("PNG", encode(&image, ImageFormat::Png)),
        ("PNG, 16 bit", encode(&sixteen_bit, ImageFormat::Png)),
        ("PNG, alpha", encode(&with_alpha, ImageFormat::Png)),
        ("WebP", encode(&image, ImageFormat::WebP)),
        ("BMP", encode(&image, ImageFormat::Bmp)),
        ("TIFF", encode(&image, ImageFormat::Tiff)),
        ("GIF", encode(&with_alpha, ImageFormat::Gif)),
        ("PNM", encode(&image, ImageFormat::Pnm)),
        ("JPEG, EXIF orientation 6", turned),
    ] {
        let answer: Detected = app.post_photo("/detect", &bytes).await.json();
        let (a, b) = (original.faces[0].face.bounding_box, answer.faces[0].face.bounding_box);
        let off = (a.x - b.x).abs().max((a.y - b.y).abs()).max((a.width - b.width).abs());
        assert!(off < 3.0, "{what}: {a:?} became {b:?}");
        assert_eq!((answer.width, answer.height), (250, 250));
    }
}

/// Puts an EXIF segment with an orientation behind the start of a JPEG.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let tiff = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &[orientation, 0, 0, 0, 0, 0, 0, 0]];
    let exif = [b"Exif\0\0".to_vec(), tiff.concat()].concat();
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat()
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_pair_is_verified() {
    let bush = photos::lfw(BUSH, 1);
    let app = TestApp::start().await;
    let other = photos::lfw(BUSH, 2);
    let pair = |b: &[u8]| Form::new().part("image_a", part(&bush)).part("image_b", part(b));
    let same: Verified = app.post_form("/verify", pair(&other)).await.json();
    assert!(same.same_person && same.similarity > same.threshold && same.faces.len() == 2);
    let different: Verified = app.post_form("/verify", pair(&photos::lfw(BLAIR, 1))).await.json();
    assert!(!different.same_person && different.similarity < 0.4);
    let identical: Verified = app.post_form("/verify", pair(&bush)).await.json();
    assert!(identical.similarity > 0.999);
    let strict = app.post_form("/verify", pair(&other).text("threshold", "1")).await;
    assert!(!strict.json::<Verified>().same_person);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_person_under_two_names_is_noticed() {
    let first = photos::lfw(BUSH, 1);
    let app = TestApp::start().await;
    let second = photos::lfw(BUSH, 2);
    app.enroll_largest("George", &first).await;
    let rejected = app.post_form("/enroll", app.enroll_form("Dubya", &second).text("on_duplicate", "reject")).await;
    let problem = rejected.expect_problem(409, Code::DuplicateFace);
    assert_eq!(problem.duplicates[0].subject, "George");
    app.get(&format!("/subjects/Dubya?gallery={}", app.gallery)).await.expect_problem(404, Code::SubjectNotFound);

    let warned = app.enroll_largest("Dubya", &second).await;
    assert_eq!(warned.duplicates[0].subject, "George");
    let same_name = app.post_form("/enroll", app.enroll_form("George", &first).text("on_duplicate", "allow")).await;
    assert!(same_name.json::<Enrolled>().duplicates.is_empty());
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn an_id_is_as_good_as_a_name() {
    let photo = photos::lfw(BUSH, 1);
    let app = TestApp::start().await;
    let enrolled = app.enroll_largest("George", &photo).await;
    let again = app.enroll_largest(&enrolled.subject_id.to_string(), &photos::lfw(BUSH, 2)).await;
    assert_eq!((again.subject.as_str(), again.subject_id), ("George", enrolled.subject_id));
    let body = json!({"name": enrolled.subject_id, "gallery": app.gallery});
    let shadow = app.send(app.request(Method::POST, "/subjects").json(&body)).await;
    shadow.expect_problem(409, Code::DuplicateSubject);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_crowd_is_identified_in_one_request() {
    let folder = photos::folder("lfw100");
    let app = TestApp::start().await;
    let people = photos::people(&folder);
    let mut crowd = image::RgbImage::new(8 * 160, 5 * 160);
    for place in 0..40 {
        let photo = image::open(&people[place % 10].1[place / 10]).unwrap().to_rgb8();
        let tile = image::imageops::crop_imm(&photo, 45, 45, 160, 160).to_image();
        let (x, y) = ((place % 8) as i64 * 160, (place / 8) as i64 * 160);
        image::imageops::replace(&mut crowd, &tile, x, y);
    }
    for (person, files) in &people {
        app.enroll_largest(person, &photos::read(&files[9])).await;
    }
    let mut png = std::io::Cursor::new(Vec::new());
    crowd.write_to(&mut png, ImageFormat::Png).unwrap();
    // Each person is on it four times.
    let form = Form::new().part("image", part(png.get_ref())).text("gallery", app.gallery.clone());
    let answer = app.post_form("/identify", form.text("unique_subjects", "false")).await;
    let answer: Identified = answer.json();
    let right = answer.faces.iter().filter(|face| {
        let area = face.face.bounding_box;
        let (column, row) = ((area.x + area.width / 2.0) / 160.0, (area.y + area.height / 2.0) / 160.0);
        face.matches[0].subject == people[(row as usize * 8 + column as usize) % 10].0
    });
    let right = right.count();
    println!("crowd of 40: {} faces found, {right} named right", answer.faces.len());
    assert!(answer.faces.len() >= 38 && right >= 36, "{} found, {right} right", answer.faces.len());
}
