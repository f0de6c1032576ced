//! The document and its rendering.

use std::path::Path;

use reqwest::{StatusCode, Url};

use faceid::http::Code;

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
