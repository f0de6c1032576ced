//! The document and its rendering.

use std::collections::BTreeSet;
use std::path::Path;

use faceid::http::{Code, Problem};
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;

use crate::support::TestApp;

#[test]
fn openapi_yaml_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.yaml");
    let written = std::fs::read_to_string(path).unwrap();
    let generated = faceid::http::openapi::yaml().unwrap();
    assert!(written == generated, "openapi.yaml is out of date: run `make openapi`");
}

#[tokio::test]
async fn the_reference_works_without_the_internet() {
    let app = TestApp::start().await;
    let document = app.get("/openapi.json").await.value();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/enroll"]["post"]["requestBody"]["content"]["multipart/form-data"].is_object());

    let page = app.get("/docs/api/").await;
    page.expect(StatusCode::OK);
    assert!(page.media_type.as_deref().is_some_and(|kind| kind.starts_with("text/html")), "{:?}", page.media_type);
    let page = page.text();
    let linked = page.split(['"', '\'']).filter(|text| text.ends_with(".js") || text.ends_with(".css"));
    let linked: Vec<_> = linked.map(|text| text.trim_start_matches("./")).collect();
    assert!(!linked.is_empty(), "{page}");
    for file in linked {
        assert!(!file.contains("//"), "{file} comes from elsewhere");
        app.get(&format!("/docs/api/{file}")).await.expect(StatusCode::OK);
    }
}

/// What a page of the server leads to, and shows.
pub fn links(page: &str) -> Vec<String> {
    let parts = page.split(['"']).collect::<Vec<_>>();
    let named = parts.windows(2).filter(|pair| pair[0].ends_with("href=") || pair[0].ends_with("src="));
    named.map(|pair| pair[1].to_owned()).filter(|link| !link.contains(':')).collect()
}

/// All that the pages lead to is there, headings included.
#[tokio::test]
async fn the_pages_of_a_server_lead_to_one_another() {
    let app = TestApp::start().await;
    // The client follows the redirection from / to the contents.
    let contents = app.get("/").await;
    assert!(
        contents.media_type.as_deref().is_some_and(|kind| kind.starts_with("text/html")),
        "{:?}",
        contents.media_type
    );
    let contents = links(&contents.text());
    assert!(contents.len() > 20, "{contents:?}");
    let server = Url::parse(&app.url).unwrap();
    let joined = |page: &str, links: Vec<String>| {
        let page = server.join(page).unwrap();
        links.iter().map(|link| page.join(link).unwrap()).collect::<Vec<_>>()
    };
    let mut waiting = joined("/docs/", contents);
    let mut seen = std::collections::HashMap::new();
    while let Some(link) = waiting.pop() {
        let path = link.path();
        if !seen.contains_key(path) {
            let answer = app.get(path).await;
            answer.expect(StatusCode::OK);
            let page = answer.text();
            if path.starts_with("/docs/") && !path.ends_with(".svg") && path != "/docs/api/" {
                assert!(!page.contains("<!--"), "{path} shows a comment");
                waiting.extend(joined(path, links(&page)));
            }
            seen.insert(path.to_owned(), page);
        }
        let fragment = link.fragment().unwrap_or_default();
        assert!(fragment.is_empty() || seen[path].contains(&format!("id=\"{fragment}\"")), "{link} leads nowhere");
    }
    app.get("/docs/no-such-page").await.expect_problem(404, Code::RouteNotFound);
}

/// Routes that read no fields at all, and ignore what is sent.
const READ_NOTHING: &[&str] = &["/healthz", "/readyz", "/metrics", "/version"];

/// The fields that the document has for an operation, wherever they may be.
fn documented(document: &Value, operation: &Value) -> BTreeSet<String> {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let query = parameters.filter(|one| one["in"] == "query").filter_map(|one| one["name"].as_str());
    let mut fields: BTreeSet<String> = query.map(str::to_owned).collect();
    for content in operation["requestBody"]["content"].as_object().into_iter().flat_map(|content| content.values()) {
        let reference = content["schema"]["$ref"].as_str().unwrap_or_default();
        let schema = document.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null);
        fields.extend(schema["properties"].as_object().into_iter().flat_map(|fields| fields.keys().cloned()));
    }
    fields
}

/// The fields that a route says that it reads, when it is sent one that there is not.
fn read(problem: &Problem) -> BTreeSet<String> {
    let list = problem.detail.split("the fields are: ").nth(1).unwrap_or_default();
    list.split(", ").filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_document_has_the_fields_that_are_read() {
    let app = TestApp::start().await;
    let document = app.get("/openapi.json").await.value();
    let mut checked = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            if READ_NOTHING.contains(&path.as_str()) {
                continue;
            }
            let address = path.split('/').map(|part| match part.starts_with('{') {
                true => "00000000-0000-7000-8000-000000000000",
                false => part,
            });
            let address = format!("{}?no_such_field=1", address.collect::<Vec<_>>().join("/"));
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let mut request = app.request(method.clone(), &address);
            if operation["requestBody"]["content"]["application/json"].is_object() {
                request = request.json(&serde_json::json!({}));
            } else if !operation["requestBody"].is_null() {
                request = request.header("content-type", "application/zip").body("PK");
            }
            let problem = app.send(request).await.expect_problem(422, Code::UnknownField);
            let (mut read, documented) = (read(&problem), documented(&document, operation));
            if path == "/admin/datasets" {
                // It is stored as it arrives.
                read.insert("file".to_owned());
            }
            assert_eq!(read, documented, "{method} {path}");
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked}");
}

/// Every operation has what generators of clients and readers need.
#[test]
fn every_operation_is_whole() {
    let document: Value = serde_norway::from_str(&faceid::http::openapi::yaml().unwrap()).unwrap();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{what}");
            assert!(
                document["tags"].as_array().unwrap().iter().any(|tag| tag["name"] == operation["tags"][0]),
                "{what}"
            );
            let responses = operation["responses"].as_object().unwrap();
            assert!(!responses.contains_key("default"), "{what} names no status");
            let is_open = operation["security"][0].as_object().is_some_and(|needed| needed.is_empty());
            assert_eq!(responses.contains_key("401"), !is_open, "{what}");
            // Whoever is known at all may enter.
            let needed = operation["x-permission"].as_str();
            assert_eq!(needed.is_some(), !is_open, "{what}");
            assert_eq!(responses.contains_key("403"), needed.is_some_and(|needed| needed != "enter"), "{what}");
            let examples = ["/content/application~1json/example"];
            let shown = |place: &Value| examples.iter().any(|path| place.pointer(path).is_some());
            if operation["requestBody"].pointer("/content/application~1json").is_some() {
                assert!(shown(&operation["requestBody"]), "{what} has no example of a request");
            }
            let answers = responses.iter().filter(|(status, _)| status.starts_with('2'));
            let with_json = answers.filter(|(_, answer)| answer.pointer("/content/application~1json").is_some());
            let with_json: Vec<&Value> = with_json.map(|(_, answer)| answer).collect();
            assert!(
                with_json.is_empty() || with_json.iter().any(|answer| shown(answer)),
                "{what} has no example of an answer"
            );
        }
    }
}
