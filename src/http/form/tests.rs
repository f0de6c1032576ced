//! Bodies made at random, of the kind that gets as far as the values: none may make a reader panic.

use std::cell::Cell;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue};
use futures_util::{FutureExt, stream};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use super::*;
use crate::http::multipart::MOST_PARTS;
use crate::service::requests::{
    Batch, CompareRequest, EmbedBatchRequest, EnrollRequest, EvaluateRequest, IdentifyEmbeddingRequest,
    IdentifyRequest, ListInGallery, ModelUpload, VerifyRequest,
};

const CASES: u32 = 1000;

/// How far bodies got.
#[derive(Default)]
struct Reached {
    /// Every member or part was read, so that the fields were asked for.
    fields: Cell<u32>,
    /// They made a request.
    request: Cell<u32>,
}

impl Reached {
    fn note<T: FromForm>(&self, form: Form, read: Result<(), Problem>) {
        if read.is_ok() {
            self.fields.set(self.fields.get() + 1);
            if form.into_request::<T>().is_ok() {
                self.request.set(self.request.get() + 1);
            }
        }
    }

    #[track_caller]
    fn check(&self, what: &str) {
        let (fields, request) = (self.fields.get(), self.request.get());
        println!("{what}: of {CASES}, {fields} reached the fields, {request} made a request");
        assert!(fields > CASES / 3 && fields < CASES, "{what}: {fields} of {CASES} reached the fields");
        assert!(request > CASES / 100 && request < fields, "{what}: {request} of {CASES} made a request");
    }
}

impl Form {
    fn read_body(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.read_json(bytes, &BodyBudget::new(1 << 30))
    }
}

fn runner() -> TestRunner {
    TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() })
}

/// JSON texts that some field may want, and some that none wants.
const LIKELY: &[&str] = &[
    "\"a\"",
    "\"Zoë\"",
    "1",
    "3",
    "0.5",
    "1e-3",
    "-0.25",
    "\"0.5\"",
    "\" 7 \"",
    "true",
    "false",
    "null",
    "\"largest\"",
    "\"warn\"",
    "\"rgb\"",
    "{}",
    "{\"a\": [1, {\"b\": null}]}",
    "\"{\\\"a\\\": 1}\"",
    "[0.25, 1, -3e-2]",
    "[1]",
    "[\n  0.1234567890123456789,\n  1e-30\n]",
    "\"[0.5]\"",
    "\"[1, 2]\"",
    "[\"a\", \"b\"]",
    "[]",
    "\"name = \\\"x\\\"\\nthreshold = 0.3\"",
];
const STRANGE: &[&str] = &[
    "-0",
    "1e400",
    "-1e-400",
    "123456789012345678901234567890",
    "0.1000000000000000055511151231257827",
    "4294967296",
    "\"\"",
    "\"NaN\"",
    "\"1e999\"",
    "\"\\u0000\"",
    "\"\\ud83d\\ude00\"",
    "\"\\\\\"",
    "\"[[[[[[\"",
    "\"{\\\"a\\\":\"",
    "[1e39]",
    "[null]",
    "{\"a\": 1, \"a\": 2}",
];
const IMAGES: &[&str] = &[
    "\"aGVsbG8=\"",
    "\"aGVsbG8\"",
    "\"data:image/png;base64,aGVs\\nbG8=\"",
    "\"data:;base64,\"",
    "\"\"",
    "\"data:image/png,x\"",
    "\"a*b\"",
    "\"data:\"",
    "\"é=\"",
    "\"data\\u003a;base64,aGVs\"",
];
/// No JSON at all.
const BROKEN: &[&str] = &["", "nan", "01", "1.", "\"\\ud800\"", "\"\\x\"", "[1,]", "{\"a\"}", "\"", "tru"];

/// A JSON value of any kind.
fn any_value() -> impl Strategy<Value = String> {
    let text = any::<String>().prop_map(|text| Value::String(text).to_string());
    let number = prop_oneof![
        any::<f64>().prop_map(|it| Value::from(it).to_string()),
        any::<i64>().prop_map(|it| it.to_string())
    ];
    let leaf = prop_oneof![one_of(LIKELY), one_of(STRANGE), text, number];
    leaf.prop_recursive(6, 40, 6, |inner| {
        let members = prop::collection::vec((any::<String>(), inner.clone()), 0..5);
        let object = |members: Vec<(String, String)>| {
            let members: Vec<String> =
                members.into_iter().map(|(name, value)| format!("{}: {value}", Value::String(name))).collect();
            format!("{{{}}}", members.join(" ,"))
        };
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(|values| format!("[{}]", values.join(",\n"))),
            members.prop_map(object)
        ]
    })
}

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(texts).prop_map(str::to_owned)
}

/// Names of fields, nearly always of the route's and each once; and what each is said to be.
fn members<T: FromForm>() -> impl Strategy<Value = Vec<(String, String)>> {
    let names = names::<T>().to_vec();
    let required =
        names.iter().take(2).copied().map(|name| (Just(name.to_owned()), value(T::FILES.contains(&name)), 9_u32));
    let required: Vec<_> = required.collect();
    let optional: Vec<_> = names.iter().skip(2).map(|name| (Just((*name).to_owned()), value(false), 1_u32)).collect();
    let maybe = |(name, value, often): (Just<String>, BoxedStrategy<String>, u32)| {
        prop::option::weighted(f64::from(often) / 10.0, (name, value)).boxed()
    };
    let known: Vec<_> = required.into_iter().chain(optional).map(maybe).collect();
    let again = (prop::sample::select(names), value(false)).prop_map(|(name, value)| (name.to_owned(), value));
    let unknown = ("[a-zé]{1,9}", any_value());
    (known, prop::option::weighted(0.08, prop_oneof![again, unknown]), any::<prop::sample::Index>()).prop_map(
        |(known, more, at)| {
            let mut members: Vec<_> = known.into_iter().flatten().collect();
            let at = at.index(members.len() + 1);
            members.splice(at..at, more);
            members
        },
    )
}

fn value(is_image: bool) -> BoxedStrategy<String> {
    if is_image {
        prop_oneof![12 => one_of(&IMAGES[..5]), 1 => one_of(IMAGES), 1 => any_value()].boxed()
    } else {
        prop_oneof![30 => one_of(LIKELY), 10 => one_of(STRANGE), 10 => any_value(), 1 => one_of(BROKEN)].boxed()
    }
}

fn json_bodies_never_panic<T: FromForm>(what: &str) {
    let reached = Reached::default();
    let bodies = (members::<T>(), prop::sample::select(vec!["", " ", "\n  ", "\t"]));
    let run = runner().run(&bodies, |(members, space)| {
        let members: Vec<String> = members
            .iter()
            .map(|(name, value)| format!("{space}{}{space}:{space}{value}", Value::String(name.clone())))
            .collect();
        let body = format!("{space}{{{}}}{space}", members.join(","));
        let mut read_into = Form::of::<T>();
        let read = read_into.read_body(body.as_bytes());
        reached.note::<T>(read_into, read);
        Ok(())
    });
    run.unwrap();
    reached.check(what);
}

#[test]
fn json_bodies_reach_the_fields_and_never_panic() {
    json_bodies_never_panic::<EnrollRequest>("enroll");
    json_bodies_never_panic::<IdentifyRequest>("identify");
    json_bodies_never_panic::<IdentifyEmbeddingRequest>("identify an embedding");
    json_bodies_never_panic::<VerifyRequest>("verify");
    json_bodies_never_panic::<ModelUpload>("import a model");
    json_bodies_never_panic::<EvaluateRequest>("evaluate a model");
    json_bodies_never_panic::<ListInGallery>("a page");
}

/// What a form says for a JSON text: the text itself, without the quotes of a string.
fn plain(json: &str) -> Vec<u8> {
    match serde_json::from_str(json) {
        Ok(Value::String(text)) => text.into_bytes(),
        _ => json.as_bytes().to_vec(),
    }
}

fn forms_never_panic<T: FromForm>(what: &str) {
    let reached = Reached::default();
    let spoiled = prop::option::weighted(0.05, any::<prop::sample::Index>());
    let bodies = (members::<T>(), spoiled, 1_usize..200);
    let headers =
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=limit"))]);
    let run = runner().run(&bodies, |(members, spoiled, piece)| {
        let mut body = Vec::new();
        for (name, value) in &members {
            body.extend(format!("--limit\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n").into_bytes());
            body.extend([plain(value).as_slice(), b"\r\n"].concat());
        }
        body.extend(b"--limit--\r\n");
        if let Some(at) = spoiled {
            let at = at.index(body.len());
            body[at] ^= 0x81;
        }
        let pieces: Vec<_> =
            body.chunks(piece).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece))).collect();
        let form = Multipart::new(&headers, Body::from_stream(stream::iter(pieces))).unwrap();
        let mut read_into = Form::of::<T>();
        let read = read_into.read_multipart(form).now_or_never().expect("everything is there");
        reached.note::<T>(read_into, read);
        Ok(())
    });
    run.unwrap();
    reached.check(what);
}

#[test]
fn forms_reach_the_fields_and_never_panic() {
    forms_never_panic::<EnrollRequest>("enroll");
    forms_never_panic::<IdentifyRequest>("identify");
    forms_never_panic::<IdentifyEmbeddingRequest>("identify an embedding");
    forms_never_panic::<VerifyRequest>("verify");
    forms_never_panic::<ModelUpload>("import a model");
    forms_never_panic::<EvaluateRequest>("evaluate a model");
    forms_never_panic::<ListInGallery>("a page");
}

#[test]
fn the_longest_embedding_passes_however_it_is_written() {
    let number = "\n        -1.23456789012345678901234567890e-12";
    let body = |count: usize| format!("{{\"embedding\": [{}]}}", vec![number; count].join(","));
    let request = |count: usize| {
        let mut form = Form::of::<IdentifyEmbeddingRequest>();
        form.read_body(body(count).as_bytes())?;
        form.into_request::<IdentifyEmbeddingRequest>()
    };
    assert_eq!(request(4000).unwrap().embedding.len(), 4000);
    let problem = request(6000).err().unwrap();
    assert_eq!((problem.code, problem.field.as_deref()), (Code::InvalidField, Some("embedding")));
}

#[test]
fn more_members_than_a_form_has_parts_are_refused() {
    let body = |count: usize| format!("{{{}}}", vec!["\"gallery\": 1"; count].join(","));
    let code = |count| Form::of::<ListInGallery>().read_body(body(count).as_bytes()).unwrap_err().code;
    assert_eq!(code(MOST_PARTS), Code::InvalidField);
    assert_eq!(code(MOST_PARTS + 1), Code::MalformedJson);
}

/// The fields of a text that may be given several times, and of one that may not.
#[test]
fn a_list_comes_in_every_spelling() {
    let read = |fields: &[(&str, &str)]| {
        let mut form = Form::of::<EvaluateRequest>();
        form.add_query(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())?;
        let request = form.into_request::<EvaluateRequest>()?;
        Ok(request.protected.unwrap_or_default().iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(read(&[]).unwrap(), Vec::<String>::new());
    assert_eq!(read(&[("protected", "a")]).unwrap(), ["a"]);
    assert_eq!(read(&[("protected", "a"), ("protected", "b")]).unwrap(), ["a", "b"]);
    assert_eq!(read(&[("protected", "[\"a\", \"b\"]")]).unwrap(), ["a", "b"]);
    let twice: Problem = read(&[("gallery", "a"), ("gallery", "b")]).unwrap_err();
    assert_eq!((twice.code, twice.field.as_deref()), (Code::InvalidField, Some("gallery")));
    assert_eq!(twice.detail, format!("gallery: {}", fields::TWICE));
}

#[test]
fn what_is_expected_is_said_in_words() {
    let detail = |body: &str| {
        let mut form = Form::of::<IdentifyRequest>();
        form.read_body(body.as_bytes())
            .and_then(|()| form.into_request::<IdentifyRequest>().map(drop))
            .unwrap_err()
            .detail
    };
    for (body, said) in [
        ("{}", "image is missing"),
        (r#"{"image": "", "top_k": 101}"#, "top_k: a number from 1 to 100 is expected"),
        (r#"{"image": "", "top_k": "x"}"#, "top_k: a whole number from 0 on is expected"),
        (r#"{"image": "", "max_faces": 0}"#, "max_faces: a number from 1 on is expected"),
        (r#"{"image": "", "fmr": 1}"#, "fmr: a number above 0 and below 1 is expected"),
        (r#"{"image": "", "threshold": 2}"#, "threshold: a threshold is a number from -1 to 1; this is 2"),
        (r#"{"image": "", "detail": "most"}"#, "detail: one of fast, auto, full is expected"),
        (r#"{"image": "", "gallery": 7}"#, "gallery: a text is expected"),
        (r#"{"image": "", "unique_subjects": "no"}"#, "unique_subjects: true or false is expected"),
        (r#"{"image": 7}"#, "image: a base64 text or data: URL is expected"),
        (r#"{"image": [1, 2]}"#, "image: a base64 text or data: URL is expected"),
        (r#"{"image": ["", ""]}"#, "image: it is given twice"),
        (r#"{"image": null}"#, "image is missing"),
    ] {
        assert_eq!(detail(body), said, "{body}");
    }
}

#[test]
fn no_more_texts_are_kept_than_a_batch_has_photos() {
    let body = format!("[{}]", vec![r#""""#; 100_000].join(","));
    let Texts(kept) = serde_json::from_str(&body).unwrap();
    assert_eq!(kept.len(), Batch::MOST + 1);
    let mut form = Form::of::<EmbedBatchRequest>();
    form.read_body(format!(r#"{{"images": {body}}}"#).as_bytes()).unwrap();
    let problem = form.into_request::<EmbedBatchRequest>().map(drop).unwrap_err();
    assert_eq!(problem.detail, "images: a list of 1 to 64 photos is expected");
}

#[test]
fn only_long_fields_are_long() {
    let problem = |field: &str| {
        let body = format!("{{\"{field}\": [{}]}}", vec!["1"; 50_000].join(","));
        let mut form = Form::of::<CompareRequest>();
        form.read_body(body.as_bytes()).err().map(|problem| (problem.code, problem.field))
    };
    assert_eq!(problem("embedding"), None);
    assert_eq!(problem("candidate_embeddings"), None);
    assert_eq!(problem("threshold"), Some((Code::InvalidField, Some("threshold".to_owned()))));
}

/// An object of one member is eight bytes of text and some hundred of memory.
#[test]
fn what_values_take_is_counted_before_they_are_read() {
    let list = format!("[{}]", vec![r#"{"":0}"#; 9000].join(","));
    let read = |budget: &BodyBudget, as_json: bool| {
        let mut form = Form::of::<CompareRequest>();
        form.values.budget = Some(budget.clone());
        match as_json {
            true => form.read_body(format!("{{\"threshold\": {list}}}").as_bytes()),
            false => form.add_query(vec![("threshold".to_owned(), list.clone())]),
        }
    };
    for as_json in [true, false] {
        let never = read(&BodyBudget::new(1 << 20), as_json).unwrap_err();
        assert_eq!(never.code, Code::BodyTooLarge);
        let budget = BodyBudget::new(16 << 20);
        read(&budget, as_json).unwrap();
        let others = Share::default();
        others.grow_to(&budget, 12 << 20).unwrap();
        assert_eq!(read(&budget, as_json).unwrap_err().code, Code::Overloaded);
        drop(others);
        read(&budget, as_json).unwrap();
    }
}

#[test]
fn values_take_no_more_than_is_counted() {
    // A list of one item has room for four of 32 bytes; one that grows is copied to twice the room.
    assert!(fields::memory_of("[[1],[1],[1],[1]]") >= 4 * (4 * 32 + 16) + (4 + 8) * 32);
    let numbers = format!("[{}]", vec!["1"; 1025].join(","));
    assert!(fields::memory_of(&numbers) >= (1024 + 2048) * 32);
    assert!(fields::memory_of(&numbers) < numbers.len() + 1025 * 100);
    let members: Vec<String> = (0..100).map(|n| format!("\"{n:02}\":0")).collect();
    // Leaves of 632 bytes, of which each holds five members at least, and names.
    assert!(fields::memory_of(&format!("{{{}}}", members.join(","))) >= 100 * (632 / 5 + 32));
}
