use std::cell::Cell;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use futures_util::{FutureExt, StreamExt, stream};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use super::*;

pub(super) type Parts = Vec<(String, Vec<u8>)>;

fn headers(content_type: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap())])
}

/// A body that is cut at the given places.
fn pieces(body: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (body.len() + 1)).chain([0, body.len()]).collect();
    cuts.sort_unstable();
    cuts.windows(2).map(|ends| Bytes::copy_from_slice(&body[ends[0]..ends[1]])).collect()
}

fn arriving(pieces: Vec<Bytes>) -> Body {
    Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>)))
}

/// All parts of a form; every other one bit by bit.
fn read(boundary: &str, pieces: Vec<Bytes>) -> Result<Parts, Problem> {
    let content_type = format!("multipart/form-data; boundary=\"{boundary}\"");
    let reading = async {
        let mut form = Multipart::new(&headers(&content_type), arriving(pieces))?;
        let mut parts = Parts::new();
        while let Some(name) = form.next_part().await? {
            let mut content = Vec::new();
            if parts.len().is_multiple_of(2) {
                content.extend(form.all_bytes(usize::MAX).await?.unwrap());
            } else {
                while let Some(bytes) = form.next_bytes().await? {
                    content.extend(bytes);
                }
            }
            parts.push((name, content));
        }
        Ok(parts)
    };
    reading.now_or_never().expect("everything is there")
}

/// In one piece and byte by byte it must be the same.
#[track_caller]
pub(super) fn read_both(body: &[u8]) -> Result<Parts, Problem> {
    let whole = read("b", pieces(body, &[]));
    let single = read("b", pieces(body, &(0..body.len()).collect::<Vec<_>>()));
    match (&whole, &single) {
        (Ok(whole), Ok(single)) => assert_eq!(whole, single),
        (Err(whole), Err(single)) => assert_eq!(whole.detail, single.detail),
        _ => panic!("{whole:?} and {single:?}"),
    }
    whole
}

#[track_caller]
fn refused(body: &str, reason: &str) {
    let problem = read_both(body.as_bytes()).unwrap_err();
    assert_eq!(problem.code, Code::MalformedMultipart);
    assert!(problem.detail.contains(reason), "{}", problem.detail);
}

fn part(disposition: &str, content: &str) -> String {
    format!("--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n")
}

pub(super) fn parts(parts: &[(&str, &str)]) -> Parts {
    parts.iter().map(|(name, content)| ((*name).to_owned(), content.as_bytes().to_vec())).collect()
}

#[test]
fn forms_as_senders_write_them() {
    for (body, expected) in [
        (part("name=\"a\"", "1") + "--b--\r\n", parts(&[("a", "1")])),
        (part("name=a; filename=x.jpg", "1") + "--b--", parts(&[("a", "1")])),
        // The name is not looked for in the name of a file.
        (part("filename=\"; name=x\\\"; name=y\"; NAME = \"a\"", "1") + "--b--", parts(&[("a", "1")])),
        (part("filename*=UTF-8''%e2%82%ac; name=\"é \\\"\\x\"", "1") + "--b--", parts(&[("é \"\\x", "1")])),
        (part("name=a; filename=\"\"", "") + &part("name=b", "2") + "--b--", parts(&[("a", ""), ("b", "2")])),
        // A line before it, blanks after its boundaries, something after its end.
        ("\r\n".to_owned() + &part("name=a", "1") + "--b-- \r\nthe end", parts(&[("a", "1")])),
        (part("name=a", "1").replace("--b\r\n", "--b \t\r\n") + "--b--", parts(&[("a", "1")])),
        // Almost a boundary.
        (part("name=a", "\r\n--\r\n-b\n--b\r\r\n--B") + "--b--", parts(&[("a", "\r\n--\r\n-b\n--b\r\r\n--B")])),
        (
            "--b\r\ncontent-type:\tx/y\r\ncontent-transfer-encoding: Binary\r\n".to_owned()
                + &part("name=a", "1")[5..]
                + "--b--",
            parts(&[("a", "1")]),
        ),
        ("--b--\r\n".to_owned(), parts(&[])),
    ] {
        assert_eq!(read_both(body.as_bytes()).unwrap(), expected, "{body:?}");
    }
}

#[test]
fn what_is_no_form_is_refused() {
    let one = part("name=a", "1");
    refused("", "ends before");
    refused("This is no form.", "does not begin with the boundary");
    refused("a preamble\r\n--b\r\n", "ends before");
    refused(&("x".repeat(LONGEST_HEAD) + "\r\n" + &one + "--b--"), "does not begin with the boundary");
    refused("--c\r\n\r\n", "does not begin with the boundary");
    refused("--b", "ends before");
    refused(&one, "ends before");
    refused(&one[..one.len() - 4], "ends before");
    refused(&(one.clone() + "--bb\r\n"), "must end there");
    refused(&(one.clone() + "--b-\r\n"), "must end there");
    // Lines that end with LF alone.
    refused(&(one.clone() + "--b--").replace("\r\n", "\n"), "CR LF");
    refused("--b\r\n\r\n1\r\n--b--", "no name");
    refused("--b\r\nContent-Disposition: form-data; filename=\"x\"\r\n\r\n1\r\n--b--", "no name");
    refused("--b\r\nContent-Disposition: form-data; name=\"x\r\n\r\n1\r\n--b--", "no name");
    refused("--b\r\nContent-Disposition: form-data; name=\"\"\r\n\r\n1\r\n--b--", "no name");
    refused("--b\r\nContent-Disposition: form-data; name=x\r\n\r\n--b--\r\n--b--", "no empty line");
    refused("--b\r\nno header\r\n\r\n1\r\n--b--", "cannot be read");
    refused(
        &(one.replace("\r\n\r\n", "\r\nContent-Type: Multipart/mixed; boundary=c\r\n\r\n") + "--b--"),
        "one by one",
    );
    refused(&(one.clone() + "--b--" + &"e".repeat(LONGEST_HEAD)), "goes on after its last boundary");
    let latin = b"--b\r\nContent-Disposition: form-data; name=\"\xe9\"\r\n\r\n1\r\n--b--";
    assert!(read_both(latin).unwrap_err().detail.contains("not UTF-8"));
}

#[test]
fn heads_and_parts_are_limited() {
    let padded =
        |length: usize| part("name=a", "1").replace("\r\n\r\n", &format!("\r\nX: {}\r\n\r\n", "y".repeat(length)));
    assert!(read_both((padded(LONGEST_HEAD - 60) + "--b--").as_bytes()).is_ok());
    for length in [LONGEST_HEAD, 4 * LONGEST_HEAD] {
        refused(&(padded(length) + "--b--"), "more than 8192 bytes");
    }
    refused(&("--b".to_owned() + &" ".repeat(2 * LONGEST_HEAD)), "more than 8192 bytes");
    let many = "X: y\r\n".repeat(MOST_HEADERS);
    refused(&format!("--b\r\n{many}{}--b--", &part("name=a", "1")[5..]), "cannot be read");
    let most: String = (0..MOST_PARTS).map(|number| part(&format!("name={number}"), "")).collect();
    assert_eq!(read_both((most.clone() + "--b--").as_bytes()).unwrap().len(), MOST_PARTS);
    refused(&(most + &part("name=a", "") + "--b--"), &format!("more than {MOST_PARTS} parts"));
}

/// What cannot become a form is refused though its end has not come.
#[test]
fn refusals_do_not_wait_for_the_rest() {
    for start in ["nothing of a form", "--b\r\nX: ", "--b\r\nContent-Disposition: form-data; name=\"", "--bb", "--b--"]
    {
        let come = Bytes::from(start.to_owned() + &"x".repeat(LONGEST_HEAD));
        let never = stream::pending::<Result<Bytes, std::io::Error>>();
        let body = Body::from_stream(stream::iter([Ok(come)]).chain(never));
        let mut form = Multipart::new(&headers("multipart/form-data; boundary=b"), body).unwrap();
        let problem = form.next_part().now_or_never().expect(start).unwrap_err();
        assert_eq!(problem.code, Code::MalformedMultipart);
    }
}

#[test]
fn boundaries_as_senders_name_them() {
    for (content_type, boundary) in [
        ("multipart/form-data; boundary=abc", "abc"),
        ("multipart/form-data;charset=utf-8;Boundary = \"a b:c\" ", "a b:c"),
        ("multipart/form-data; boundary=----=_Part_1?x=2/3; charset=x", "----=_Part_1?x=2/3"),
        (&format!("multipart/form-data; boundary={}", "x".repeat(70)), &"x".repeat(70)),
    ] {
        let body = format!("--{boundary}\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--{boundary}--\r\n");
        let reading = async {
            let mut form = Multipart::new(&headers(content_type), Body::from(body)).unwrap();
            assert_eq!(form.next_part().await.unwrap().unwrap(), "a", "{content_type}");
            assert_eq!(form.all_bytes(1).await.unwrap().unwrap(), "1");
            assert_eq!(form.next_part().await.unwrap(), None);
            assert_eq!(form.next_part().await.unwrap(), None);
        };
        reading.now_or_never().unwrap();
    }
    for content_type in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\"a",
        "multipart/form-data; xboundary=a",
        &format!("multipart/form-data; boundary={}", "x".repeat(71)),
    ] {
        let refused = Multipart::new(&headers(content_type), Body::empty()).err().unwrap();
        assert_eq!(refused.code, Code::MalformedMultipart, "{content_type}");
    }
}

#[test]
fn no_more_is_held_than_is_asked_for() {
    let content = "x".repeat(1_000_000);
    let body = part("name=a", &content) + &part("name=b", "12345") + "--b--";
    let reading = async {
        let pieces = pieces(body.as_bytes(), &(0..body.len()).step_by(1000).collect::<Vec<_>>());
        let mut form = Multipart::new(&headers("multipart/form-data; boundary=b"), arriving(pieces)).unwrap();
        form.next_part().await.unwrap();
        assert_eq!(form.all_bytes(5000).await.unwrap(), None);
        assert!(form.buffer.len() < 8000);
        // What is left is there in blocks.
        while let Some(bytes) = form.next_bytes().await.unwrap() {
            assert!(bytes.len() < BLOCK + 2000);
        }
        form.next_part().await.unwrap();
        assert_eq!(form.all_bytes(4).await.unwrap(), None);
        assert_eq!(form.all_bytes(5).await.unwrap().unwrap(), "12345");
        assert_eq!(form.next_bytes().await.unwrap(), None);
    };
    reading.now_or_never().unwrap();
}

/// Contents that look like what ends a part.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let bit =
        prop::sample::select(vec![&b"\r\n--b"[..], b"\r\n--", b"\r\n", b"\r", b"--b", b"-", b"b", b"\n", b"\0\xff"]);
    let bits = prop::collection::vec(bit, 0..12).prop_map(|bits| bits.concat());
    prop_oneof![bits, prop::collection::vec(any::<u8>(), 0..300), Just(vec![b'\r'; 200_000])]
}

fn form() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    prop::collection::vec(("[a-zé \"]{1,8}", content()), 0..5)
}

/// A form that is written as browsers do.
fn written(boundary: &str, parts: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, content) in parts {
        let name = name.replace('"', "\\\"");
        body.extend(format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n").into_bytes());
        body.extend([content, &b"\r\n"[..]].concat());
    }
    body.extend(format!("--{boundary}--\r\n").into_bytes());
    body
}

/// What another reader makes of a form.
async fn by_multer(boundary: &str, body: Vec<u8>) -> Result<Parts, multer::Error> {
    let stream = stream::iter([Ok::<_, std::io::Error>(Bytes::from(body))]);
    let mut form = multer::Multipart::new(stream, boundary);
    let mut parts = Parts::new();
    while let Some(part) = form.next_field().await? {
        let name = part.name().unwrap_or_default().to_owned();
        parts.push((name, part.bytes().await?.to_vec()));
    }
    Ok(parts)
}

proptest! {
    #![proptest_config(Config { cases: 500, failure_persistence: None, ..Config::default() })]

    #[test]
    fn forms_are_read_however_they_are_cut(parts in form(), cuts in prop::collection::vec(any::<usize>(), 0..40)) {
        // No content has this boundary.
        let boundary = "b-0123456789";
        let body = written(boundary, &parts);
        prop_assert_eq!(read(boundary, pieces(&body, &cuts)).unwrap(), parts.clone());
        let theirs = by_multer(boundary, body).now_or_never().unwrap();
        prop_assert_eq!(theirs.unwrap(), parts);
    }

    #[test]
    fn forms_of_a_client_are_read(parts in prop::collection::vec(("[a-z]{1,8}", any::<bool>(), content()), 1..5)) {
        let mut form = reqwest::multipart::Form::new();
        for (name, is_file, content) in &parts {
            let part = reqwest::multipart::Part::bytes(content.clone());
            let part = if *is_file { part.file_name("a;\"é.jpg").mime_str("image/jpeg").unwrap() } else { part };
            form = form.part(name.clone(), part);
        }
        let boundary = form.boundary().to_owned();
        let pieces = form.into_stream().map(Result::unwrap).collect().now_or_never().unwrap();
        let expected: Parts = parts.into_iter().map(|(name, _, content)| (name, content)).collect();
        prop_assert_eq!(read(&boundary, pieces).unwrap(), expected);
    }
}

/// Damage: a byte is changed, a stretch is lost or doubled.
#[derive(Debug, Clone)]
enum Damage {
    Changed(Index, u8),
    Lost(Index, usize),
    Doubled(Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\r\n-b\";=: ".to_vec())];
    prop_oneof![
        (any::<Index>(), byte).prop_map(|(at, byte)| Damage::Changed(at, byte)),
        (any::<Index>(), 1_usize..8).prop_map(|(at, length)| Damage::Lost(at, length)),
        (any::<Index>(), 1_usize..60).prop_map(|(at, length)| Damage::Doubled(at, length)),
    ]
}

fn damaged(mut body: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let (Damage::Changed(at, _) | Damage::Lost(at, _) | Damage::Doubled(at, _)) = damage;
        let at = at.index(body.len());
        match damage {
            Damage::Changed(_, byte) => body[at] = *byte,
            Damage::Lost(_, length) => _ = body.drain(at..(at + length).min(body.len() - 1)),
            Damage::Doubled(_, length) => {
                let stretch = body[at..(at + length).min(body.len())].to_vec();
                body.splice(at..at, stretch);
            }
        }
    }
    body
}

/// A damaged form is read or refused, never both by how it is cut; and a fair share of each is tried.
#[test]
fn damaged_forms_are_read_or_refused_however_they_are_cut() {
    const CASES: u32 = 3000;
    let (read_whole, refused) = (Cell::new(0), Cell::new(0));
    let strategy = (
        prop::collection::vec(("[a-c]{1,2}", content().prop_filter("short", |it| it.len() < 1000)), 1..4),
        prop::collection::vec(damage(), 1..4),
        prop::collection::vec(any::<usize>(), 0..40),
    );
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let run = runner.run(&strategy, |(parts, damages, cuts)| {
        let body = damaged(written("b", &parts), &damages);
        match (read("b", pieces(&body, &[])), read("b", pieces(&body, &cuts))) {
            (Ok(whole), Ok(cut)) => {
                prop_assert_eq!(whole, cut);
                read_whole.set(read_whole.get() + 1);
            }
            (Err(whole), Err(cut)) => {
                prop_assert_eq!(whole.code, Code::MalformedMultipart);
                prop_assert_eq!(whole.detail, cut.detail);
                refused.set(refused.get() + 1);
            }
            (whole, cut) => prop_assert!(false, "{:?} and {:?}", whole, cut),
        }
        Ok(())
    });
    run.unwrap();
    println!("{} were read, {} refused", read_whole.get(), refused.get());
    assert!(read_whole.get() > CASES / 10 && refused.get() > CASES / 10);
}
