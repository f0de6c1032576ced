//! The checked-in document is what the code says.

use std::path::Path;

#[test]
fn openapi_yaml_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.yaml");
    let written = std::fs::read_to_string(path).unwrap();
    let generated = faceid::http::openapi::yaml().unwrap();
    assert!(written == generated, "openapi.yaml is out of date: run `make openapi`");
}
