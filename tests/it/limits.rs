//! How much callers, and addresses, may have: each limit with its code and its headers, and nobody else's.

use std::io::Cursor;
use std::time::Duration;

use faceid::http::Code;
use faceid::service::answers::{CreatedKey, Gallery, Job, KeyEntry, Page};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::multipart::Form;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::datasets::{people, zipped};
use crate::support::process::{Server, data_dir, faceid};
use crate::support::{Answer, TestApp, eventually, part, photos};

const CLIENT: &str = "client-key-for-tests";
const ADMIN: &str = "admin-key-for-tests-";
const KEYS: [&str; 4] = ["--client-key", CLIENT, "--admin-key", ADMIN];

/// Generous: machines are shared.
const WITHIN: Duration = Duration::from_secs(60);

fn caller(server: &Server, key: &str) -> TestApp {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_str(key).unwrap());
    let client = Client::builder().default_headers(headers).build().unwrap();
    TestApp { client, url: server.url.clone(), gallery: "default".to_owned() }
}

async fn post(app: &TestApp, path: &str, body: Value) -> Answer {
    app.send(app.request(Method::POST, path).json(&body)).await
}

/// A caller with a new key that has limits of its own.
async fn limited(server: &Server, role: &str, limits: Value) -> TestApp {
    let name = format!("key {}", uuid::Uuid::now_v7().simple());
    let made = post(&caller(server, ADMIN), "/admin/keys", json!({"name": name, "role": role, "limits": limits})).await;
    made.expect(StatusCode::CREATED);
    caller(server, &made.json::<CreatedKey>().key.expose())
}

#[track_caller]
fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// The `r` and `t` of a policy in `RateLimit`.
#[track_caller]
fn left(answer: &Answer, policy: &str) -> (u32, Option<u32>) {
    let state = header(answer, "ratelimit");
    let own = state
        .split(", ")
        .find_map(|item| item.strip_prefix(&format!("\"{policy}\";")))
        .unwrap_or_else(|| panic!("{state}"));
    let number = |name: &str| own.split(';').find_map(|part| part.strip_prefix(name)?.parse::<u32>().ok());
    (number("r=").unwrap(), number("t="))
}

async fn metric(server: &Server, kind: &str) -> f64 {
    let text = caller(server, ADMIN).get("/metrics").await.text();
    let line = format!("faceid_limited_total{{kind=\"{kind}\"}} ");
    text.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap_or(0.0)
}

/// A picture of nobody.
fn picture(width: u32, height: u32) -> Vec<u8> {
    let mut png = Cursor::new(Vec::new());
    image::RgbImage::new(width, height).write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

async fn detect(app: &TestApp, photo: &[u8]) -> Answer {
    app.post_form("/detect", Form::new().part("image", part(photo))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_has_what_it_was_given_and_others_what_the_server_says() {
    let data = data_dir();
    // So slow that the time which the test takes does not matter.
    let said = ["--requests-per-second", "0.01", "--request-burst", "3"];
    let server = Server::start(data.path(), &[&KEYS[..], &said].concat()).await;
    let admin = caller(&server, ADMIN);

    for app in [limited(&server, "read", json!({})).await, caller(&server, CLIENT)] {
        for before in [2, 1, 0] {
            let answer = app.get("/galleries").await;
            answer.expect(StatusCode::OK);
            assert_eq!(header(&answer, "ratelimit-policy"), "\"requests\";q=3;w=300");
            let (rest, next) = left(&answer, "requests");
            assert_eq!(rest, before);
            assert!((1..=100).contains(&next.unwrap()), "{next:?}");
        }
        let refused = app.get("/galleries").await;
        let problem = refused.expect_problem(429, Code::RateLimited);
        let wait: u32 = header(&refused, "retry-after").parse().unwrap();
        assert!((60..=100).contains(&wait), "{wait}");
        assert_eq!((problem.retry_after, left(&refused, "requests")), (Some(wait), (0, Some(wait))));
        assert_eq!(header(&refused, "ratelimit-policy"), "\"requests\";q=3;w=300");
        assert!(problem.detail.contains("0.01 requests a second"), "{}", problem.detail);
        // Nobody is ever kept from asking whether the server lives.
        for _ in 0..20 {
            assert_eq!(
                (app.get("/healthz").await.status, app.get("/readyz").await.status),
                (StatusCode::OK, StatusCode::OK)
            );
        }
        assert_eq!(header(&app.get("/healthz").await, "ratelimit"), "");
    }

    // Beside them: one without limits, and the admin key, which never has any.
    let free = limited(&server, "read", json!({"requests_per_second": 0})).await;
    for app in [&free, &admin] {
        for _ in 0..20 {
            let answer = app.get("/galleries").await;
            answer.expect(StatusCode::OK);
            assert_eq!((header(&answer, "ratelimit"), header(&answer, "ratelimit-policy")), ("", ""));
        }
    }

    // Whatever is asked for counts, if it is there or not, allowed or not; the burst comes back.
    let own = limited(&server, "read", json!({"requests_per_second": 0.5, "request_burst": 5})).await;
    for (method, path, status) in [
        (Method::GET, "/galleries", 200),
        (Method::GET, "/nowhere", 404),
        (Method::POST, "/admin/retrain", 403),
        (Method::GET, "/version", 200),
        (Method::GET, "/docs/", 200),
    ] {
        let answer = own.send(own.request(method, path)).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(header(&answer, "ratelimit-policy"), "\"requests\";q=5;w=10");
    }
    own.get("/galleries").await.expect_problem(429, Code::RateLimited);
    let again = async || (own.get("/galleries").await.status == StatusCode::OK).then_some(());
    eventually(WITHIN, "there is more", again).await;

    let entry = |answer: Answer| answer.json::<Page<KeyEntry>>().items;
    let listed = entry(admin.get("/admin/keys").await);
    assert!(
        listed.iter().any(|key| key.limits.requests_per_second == Some(0.5) && key.limits.request_burst == Some(5))
    );
    assert!(listed.iter().any(|key| key.limits.says_nothing()));
    for wrong in [json!({"requests_per_second": -1}), json!({"request_burst": 0}), json!({"requests": 1}), json!(7)] {
        let refused = post(&admin, "/admin/keys", json!({"name": "wrong", "role": "read", "limits": wrong})).await;
        assert_eq!(refused.expect_problem(422, Code::InvalidField).field.as_deref(), Some("limits"), "{wrong}");
    }
    assert!(metric(&server, "requests").await >= 3.0);

    whoever_is_limited_gives_no_more(&server).await;
    the_command_waits(&server).await;
}

async fn whoever_is_limited_gives_no_more(server: &Server) {
    let limits = json!({"requests_per_second": 100, "request_burst": 200, "concurrent_requests": 9});
    let tenant = limited(server, "admin", limits).await;
    let make = async |limits: Value| {
        let name = format!("key {}", uuid::Uuid::now_v7().simple());
        post(&tenant, "/admin/keys", json!({"name": name, "role": "read", "limits": limits})).await
    };
    let same = make(json!({})).await;
    same.expect(StatusCode::CREATED);
    let same = same.json::<CreatedKey>().entry.limits;
    assert_eq!(
        (same.requests_per_second, same.request_burst, same.concurrent_requests),
        (Some(100.0), Some(200), Some(9))
    );
    make(json!({"requests_per_second": 10, "concurrent_requests": 1})).await.expect(StatusCode::CREATED);
    for more in [
        json!({"requests_per_second": 101, "request_burst": 1}),
        json!({"requests_per_second": 0}),
        json!({"request_burst": 201}),
        json!({"concurrent_requests": 0}),
    ] {
        make(more).await.expect_problem(403, Code::Forbidden);
    }
    // Nor do they by another value of a key that may have more; their own, and one of less, they rotate.
    let admin = caller(server, ADMIN);
    for (name, limits, status) in [
        ("free", json!({"requests_per_second": 0}), StatusCode::FORBIDDEN),
        ("less", json!({"requests_per_second": 1, "concurrent_requests": 1}), StatusCode::OK),
    ] {
        let made = post(&admin, "/admin/keys", json!({"name": name, "role": "read", "limits": limits})).await;
        made.expect(StatusCode::CREATED);
        post(&tenant, &format!("/admin/keys/{name}/rotate"), json!({})).await.expect(status);
    }
    // Taking it back is no gain.
    let revoked = tenant.send(tenant.request(Method::DELETE, "/admin/keys/free")).await;
    revoked.expect(StatusCode::OK);
}

/// `faceid` asks again when there is more, and shows limits.
async fn the_command_waits(server: &Server) {
    let run = async |key: &str, arguments: &[&str]| {
        let mut command = faceid();
        command.args(["keys"]).args(arguments).args(["--server", &server.url]).env("FACEID_ADMIN_KEY", key);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let before = metric(server, "requests").await;
    let create =
        ["create", "slow", "--role", "owner", "--limit-requests-per-second", "0.5", "--limit-request-burst", "1"];
    let (made, key, said) = run(ADMIN, &create).await;
    assert!(made, "{said}");
    for _ in 0..3 {
        let (done, listed, said) = run(key.trim(), &["list"]).await;
        assert!(done, "{said}");
        assert!(listed.contains("0.5 requests a second, 1 at once"), "{listed}");
    }
    assert!(metric(server, "requests").await > before);
    // It does not wait for ever.
    let very_slow = ["create", "very slow", "--role", "owner", "--limit-requests-per-second", "0.001"];
    let (_, key, _) = run(ADMIN, &very_slow).await;
    assert!(run(key.trim(), &["list"]).await.0);
    let (done, _, said) = run(key.trim(), &["list"]).await;
    assert!(!done && said.contains("try again in"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_at_a_time_and_pixels() {
    let data = data_dir();
    let server = Server::start(data.path(), &[&KEYS[..], &["--concurrent-requests", "50"]].concat()).await;
    let jobs = caller(&server, ADMIN).get("/admin/jobs").await.json::<Page<Job>>().items;
    // One that never ends.
    let events = format!("/admin/jobs/{}/events", jobs[0].id);

    let app = limited(&server, "owner", json!({"concurrent_requests": 2})).await;
    let follow = async || {
        let answer = app.request(Method::GET, &events).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["ratelimit-policy"], "\"concurrent\";q=2;qu=\"concurrent-requests\"");
        answer
    };
    let (one, other) = (follow().await, follow().await);
    let refused = app.get("/galleries").await;
    let problem = refused.expect_problem(429, Code::TooManyConcurrent);
    assert_eq!((problem.retry_after, header(&refused, "retry-after")), (Some(1), "1"));
    assert_eq!(left(&refused, "concurrent"), (0, None));
    assert_eq!(
        header(&caller(&server, CLIENT).get("/galleries").await, "ratelimit-policy"),
        "\"concurrent\";q=50;qu=\"concurrent-requests\""
    );
    drop(one);
    let again = async || (app.get("/galleries").await.status == StatusCode::OK).then_some(());
    eventually(WITHIN, "a place is given back", again).await;
    drop(other);

    // A thousandth of a megapixel a second, a whole one at most.
    let rate = json!({"megapixels_per_second": 0.001, "megapixel_burst": 1, "concurrent_requests": 0});
    let app = limited(&server, "identify", rate.clone()).await;
    let (small, large) = (picture(1000, 600), picture(1200, 1000));
    let refused = detect(&app, &large).await;
    let problem = refused.expect_problem(413, Code::PixelsBeyondLimit);
    assert!(problem.detail.contains("1.2 megapixels") && problem.retry_after.is_none(), "{}", problem.detail);
    assert!(refused.headers.get("retry-after").is_none());
    // What has no head that can be read costs nothing, nor does what is refused.
    detect(&app, &small[..20]).await.expect_problem(422, Code::CorruptImage);
    let first = detect(&app, &small).await;
    first.expect(StatusCode::OK);
    assert_eq!(header(&first, "ratelimit-policy"), "\"megapixels\";q=1;qu=\"megapixels\";w=1000");
    assert_eq!(left(&first, "megapixels").0, 0);
    let refused = detect(&app, &small).await;
    let wait = refused.expect_problem(429, Code::RateLimited).retry_after.unwrap();
    assert!((50..=200).contains(&wait), "{wait}");
    // What has no photo goes on.
    app.get("/info").await.expect(StatusCode::OK);

    // Both photos of a verification together.
    let app = limited(&server, "identify", rate.clone()).await;
    let pair = |a: &[u8], b: &[u8]| Form::new().part("image_a", part(a)).part("image_b", part(b));
    app.post_form("/verify", pair(&small, &small)).await.expect_problem(413, Code::PixelsBeyondLimit);

    // A batch is one request, whose photos are paid for one by one.
    let app = limited(
        &server,
        "identify",
        json!({"megapixels_per_second": 0.001, "megapixel_burst": 1, "requests_per_second": 0.01, "request_burst": 1}),
    )
    .await;
    let form = Form::new().part("images", part(&small)).part("images", part(&small)).part("images", part(&large));
    let answer = app.post_form("/identify/batch", form).await;
    answer.expect(StatusCode::OK);
    assert_eq!((left(&answer, "requests").0, left(&answer, "megapixels").0), (0, 0));
    let results = answer.value()["results"].clone();
    let codes: Vec<&str> = (0..3).map(|photo| results[photo]["problem"]["code"].as_str().unwrap_or("none")).collect();
    assert_eq!(codes[2], "pixels_beyond_limit");
    let mut two = [codes[0], codes[1]];
    two.sort_unstable();
    assert_eq!(two, ["none", "rate_limited"], "{results}");
    detect(&app, &small).await.expect_problem(429, Code::RateLimited);
    assert!(metric(&server, "pixels").await >= 5.0);
    assert!(metric(&server, "concurrent").await >= 1.0);

    the_size_of_a_gallery_is_for_whoever_may_create_some(&server).await;
}

async fn the_size_of_a_gallery_is_for_whoever_may_create_some(server: &Server) {
    let admin = caller(server, ADMIN);
    post(&admin, "/galleries", json!({"name": "small"})).await.expect(StatusCode::CREATED);
    let made = post(&admin, "/admin/keys", json!({"name": "tenant", "role": "admin", "galleries": ["small"]})).await;
    let tenant = caller(server, &made.json::<CreatedKey>().key.expose());
    let most = async |app: &TestApp, most: u64| {
        app.send(app.request(Method::PATCH, "/galleries/small").json(&json!({"max_subjects": most}))).await
    };
    most(&admin, 1).await.expect(StatusCode::OK);
    most(&tenant, 9).await.expect_problem(403, Code::Forbidden);
    assert_eq!(tenant.get("/galleries/small").await.json::<Gallery>().entry.max_subjects, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_are_not_guessed_faster_than_an_address_may_ask() {
    let data = data_dir();
    let said = ["--address-requests-per-second", "0.01", "--address-request-burst", "5"];
    let server = Server::start(data.path(), &[&KEYS[..], &said].concat()).await;
    let known = caller(&server, CLIENT);
    known.get("/galleries").await.expect(StatusCode::OK);
    // A key that counts costs nothing of it.
    for left_over in (0..5).rev() {
        let answer = caller(&server, "client-key-for-testz").get("/galleries").await;
        answer.expect_problem(401, Code::Unauthorized);
        assert_eq!(header(&answer, "ratelimit-policy"), "\"address\";q=5;w=500");
        assert_eq!(left(&answer, "address").0, left_over);
    }
    let nobody = TestApp { client: Client::new(), url: server.url.clone(), gallery: String::new() };
    // Whatever it is, and whatever it says about where it comes from.
    for path in ["/galleries", "/version", "/docs/", "/nowhere"] {
        let request = nobody
            .request(Method::GET, path)
            .header("x-forwarded-for", "203.0.113.7")
            .header("forwarded", "for=203.0.113.7");
        let refused = nobody.send(request).await;
        let wait = refused.expect_problem(429, Code::RateLimited).retry_after.unwrap();
        assert!((60..=100).contains(&wait), "{wait}");
        assert_eq!(
            (left(&refused, "address"), header(&refused, "retry-after")),
            ((0, Some(wait)), wait.to_string().as_str())
        );
    }
    // A guess that is right is told as little as one that is wrong.
    caller(&server, "client-key-for-testy").get("/galleries").await.expect_problem(429, Code::RateLimited);
    caller(&server, ADMIN).get("/galleries").await.expect_problem(429, Code::RateLimited);
    for _ in 0..20 {
        let answer = known.get("/galleries").await;
        answer.expect(StatusCode::OK);
        assert_eq!(header(&answer, "ratelimit"), "");
        assert_eq!(nobody.get("/healthz").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_trusted_proxy_says_where_requests_come_from() {
    let data = data_dir();
    let said =
        ["--address-requests-per-second", "0.01", "--address-request-burst", "2", "--address-concurrent-requests", "1"];
    let said = [&KEYS[..], &said, &["--trusted-proxies", "127.0.0.0/8,10.0.0.0/8"]].concat();
    let server = Server::start(data.path(), &said).await;
    let nobody = TestApp { client: Client::new(), url: server.url.clone(), gallery: String::new() };
    let status = async |from: &str| {
        nobody.send(nobody.request(Method::GET, "/galleries").header("x-forwarded-for", from)).await.status.as_u16()
    };
    assert_eq!(
        [status("203.0.113.1").await, status("203.0.113.1").await, status("203.0.113.1").await],
        [401, 401, 429]
    );
    assert_eq!(status("203.0.113.2").await, 401);
    // What the client says itself stands before what the proxies say.
    assert_eq!(status("198.51.100.77, 203.0.113.1").await, 429);
    assert_eq!(status("198.51.100.77, 203.0.113.1, 10.1.2.3").await, 429);
    assert_eq!(status("203.0.113.1, 198.51.100.77").await, 401);
    // A network of IPv6 is one.
    assert_eq!(
        [status("2001:db8::1").await, status("2001:db8::2").await, status("2001:db8::3").await],
        [401, 401, 429]
    );
    assert_eq!(status("2001:db8:0:1::1").await, 401);

    // Requests at a time, with a key.
    let from =
        |app: &TestApp, path: &str, address: &str| app.request(Method::GET, path).header("x-forwarded-for", address);
    let admin = caller(&server, ADMIN);
    let jobs = admin.send(from(&admin, "/admin/jobs", "203.0.113.50")).await.json::<Page<Job>>().items;
    let events = format!("/admin/jobs/{}/events", jobs[0].id);
    let stream = from(&admin, &events, "203.0.113.50").send().await.unwrap();
    let client = caller(&server, CLIENT);
    let refused = client.send(from(&client, "/galleries", "203.0.113.50")).await;
    refused.expect_problem(429, Code::TooManyConcurrent);
    client.send(from(&client, "/galleries", "203.0.113.51")).await.expect(StatusCode::OK);
    drop(stream);
    let again = async || {
        (client.send(from(&client, "/galleries", "203.0.113.50")).await.status == StatusCode::OK).then_some(())
    };
    eventually(WITHIN, "a place is given back", again).await;
}

async fn subjects(app: &TestApp) -> u64 {
    app.get(&format!("/galleries/{}", app.gallery)).await.json::<Gallery>().subjects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gallery_gets_no_more_subjects_than_it_may_have_however_many_come_at_once() {
    let app = TestApp::start().await;
    let most = async |most: u64| {
        let request = app.request(Method::PATCH, &format!("/galleries/{}", app.gallery));
        let changed = app.send(request.json(&json!({"max_subjects": most}))).await;
        changed.expect(StatusCode::OK);
        assert_eq!(changed.value()["max_subjects"].as_u64(), (most > 0).then_some(most));
    };
    most(3).await;
    let all = photos::people(&photos::folder("lfw100"));
    let photos: Vec<(String, Vec<u8>)> =
        all.iter().take(8).map(|(name, files)| (name.clone(), photos::read(&files[0]))).collect();
    let enroll = async |name: &str, photo: &[u8], on_duplicate: &str| {
        let form = app.enroll_form(name, photo).text("quality", "any").text("on_duplicate", on_duplicate.to_owned());
        app.post_form("/enroll", form).await
    };
    let at_once =
        photos.iter().enumerate().map(|(number, (name, photo))| enroll(name, photo, ["warn", "allow"][number % 2]));
    let answers = futures_util::future::join_all(at_once).await;
    let (stored, refused): (Vec<_>, Vec<_>) = answers.iter().zip(&photos).partition(|(answer, _)| answer.status == 201);
    assert_eq!((stored.len(), refused.len()), (3, 5));
    refused.iter().for_each(|(answer, _)| _ = answer.expect_problem(409, Code::SubjectQuota));
    assert_eq!(subjects(&app).await, 3);

    // Who is there gets more faces; nobody else comes, by whatever way.
    let (_, (name, photo)) = stored[0];
    let again = enroll(name, photo, "warn").await;
    again.expect(StatusCode::CREATED);
    let face = again.value()["face_id"].as_str().unwrap().to_owned();
    let gallery = &app.gallery;
    post(&app, "/subjects", json!({"gallery": gallery, "name": "new"})).await.expect_problem(409, Code::SubjectQuota);
    post(&app, &format!("/faces/{face}/move"), json!({"subject": "new"})).await.expect_problem(409, Code::SubjectQuota);
    let mut archive = people(0..2, 1);
    archive.push((format!("{name}/1.jpg"), photos::read(&all.iter().find(|(other, _)| other == name).unwrap().1[1])));
    let uploaded = app.upload(zipped(&archive)).await;
    uploaded.expect(StatusCode::ACCEPTED);
    let path = format!("/admin/jobs/{}", uploaded.json::<Job>().id);
    let job = eventually(WITHIN, "the import ends", async || {
        let job = app.get(&path).await.value();
        ["succeeded", "failed"].contains(&job["state"].as_str().unwrap()).then_some(job)
    });
    let result = job.await["result"].clone();
    assert_eq!((result["faces"].as_u64(), result["refused"].as_u64()), (Some(1), Some(2)), "{result}");
    assert_eq!(result["refusals"][0]["code"], "subject_quota");
    assert_eq!(subjects(&app).await, 3);

    // Room comes by whoever goes, or by another limit.
    let (_, (gone, _)) = stored[1];
    app.send(app.request(Method::DELETE, &format!("/subjects/{gone}?gallery={gallery}"))).await.expect(StatusCode::OK);
    post(&app, "/subjects", json!({"gallery": gallery, "name": "new"})).await.expect(StatusCode::CREATED);
    post(&app, "/subjects", json!({"gallery": gallery, "name": "newer"})).await.expect_problem(409, Code::SubjectQuota);
    most(0).await;
    post(&app, "/subjects", json!({"gallery": gallery, "name": "newer"})).await.expect(StatusCode::CREATED);
    // Who are there stay.
    most(1).await;
    assert_eq!(subjects(&app).await, 4);
}
