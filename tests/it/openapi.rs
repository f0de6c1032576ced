//! The document and its rendering.

use std::path::Path;

use reqwest::StatusCode;

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

    // The client follows the redirection from / to the page.
    let page = app.get("/").await;
    page.expect(StatusCode::OK);
    assert!(page.media_type.as_deref().is_some_and(|kind| kind.starts_with("text/html")), "{:?}", page.media_type);
    let page = page.text();
    let linked = page.split(['"', '\'']).filter(|text| text.ends_with(".js") || text.ends_with(".css"));
    let linked: Vec<_> = linked.map(|text| text.trim_start_matches("./")).collect();
    assert!(!linked.is_empty(), "{page}");
    for file in linked {
        assert!(!file.contains("//"), "{file} comes from elsewhere");
        app.get(&format!("/docs/{file}")).await.expect(StatusCode::OK);
    }
}
