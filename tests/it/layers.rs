//! The layers point one way: who may import what.

use std::path::{Path, PathBuf};

/// What a folder or file of src must not mention in code.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "vision",
        &[
            "tch",
            "sqlx",
            "axum",
            "crate::engine",
            "crate::nn",
            "crate::gallery",
            "crate::service",
            "crate::http",
            "crate::training",
        ],
    ),
    (
        "nn",
        &[
            "sqlx",
            "axum",
            "crate::vision",
            "crate::engine",
            "crate::gallery",
            "crate::service",
            "crate::http",
            "crate::training",
        ],
    ),
    (
        "training",
        &[
            "sqlx",
            "axum",
            "crate::app",
            "crate::cli",
            "crate::config",
            "crate::db",
            "crate::engine",
            "crate::gallery",
            "crate::http",
            "crate::index",
            "crate::registry",
            "crate::service",
        ],
    ),
    (
        "engine",
        &["sqlx", "axum", "crate::vision", "crate::gallery", "crate::service", "crate::http", "crate::training"],
    ),
    ("db", &["tch", "axum", "crate::engine", "crate::gallery", "crate::service", "crate::http", "crate::vision"]),
    ("gallery", &["tch", "axum", "crate::engine", "crate::registry", "crate::service", "crate::http", "crate::vision"]),
    ("index", &["tch", "sqlx", "axum", "crate::engine", "crate::gallery", "crate::service", "crate::http"]),
    ("registry", &["tch", "axum", "crate::engine", "crate::gallery", "crate::service", "crate::http", "crate::vision"]),
    (
        "jobs",
        &[
            "tch",
            "axum",
            "crate::engine",
            "crate::gallery",
            "crate::registry",
            "crate::service",
            "crate::http",
            "crate::training",
            "crate::vision",
        ],
    ),
    (
        "evaluation",
        &[
            "tch",
            "sqlx",
            "axum",
            "image",
            "crate::cli",
            "crate::engine",
            "crate::gallery",
            "crate::http",
            "crate::nn",
            "crate::registry",
            "crate::service",
            "crate::training",
            "crate::vision",
        ],
    ),
    (
        "transfer",
        &[
            "tch",
            "sqlx",
            "axum",
            "crate::engine",
            "crate::nn",
            "crate::service",
            "crate::http",
            "crate::cli",
            "crate::app",
        ],
    ),
    ("transfer/line.rs", &["crate::registry", "crate::vision", "tokio"]),
    (
        "blobs.rs",
        &["tch", "sqlx", "axum", "crate::engine", "crate::gallery", "crate::registry", "crate::service", "crate::http"],
    ),
    (
        "blobs",
        &["tch", "sqlx", "axum", "crate::engine", "crate::gallery", "crate::registry", "crate::service", "crate::http"],
    ),
    ("service", &["tch", "sqlx", "axum", "crate::http", "crate::cli", "crate::app"]),
    ("http", &["tch", "sqlx", "crate::cli", "crate::app", "crate::nn", "crate::training"]),
    ("cli", &["tch", "sqlx"]),
    ("types.rs", &["tch", "sqlx", "axum", "crate::"]),
    ("config", &["tch", "sqlx", "axum", "crate::http", "crate::service"]),
];

fn rust_files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            rust_files(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(path) {
        found.push(path.to_owned());
    }
}

/// Tests of a layer may use what its code may not.
fn is_test(path: &Path) -> bool {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_or(path);
    inside.to_string_lossy().contains("test")
}

/// Code without comments.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn mentions(code: &str, what: &str) -> bool {
    if what.starts_with("crate::") {
        return code.contains(what);
    }
    let path = format!("{what}::");
    let starts =
        |(at, _): (usize, &str)| !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
    code.match_indices(&path).any(starts)
}

#[test]
fn no_layer_imports_its_callers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (layer, forbidden) in FORBIDDEN {
        let mut files = Vec::new();
        rust_files(&src.join(layer), &mut files);
        assert!(!files.is_empty(), "src/{layer} is gone; mend this test");
        for file in files {
            let code = code(&file);
            for what in *forbidden {
                assert!(!mentions(&code, what), "{} must not use {what}", file.display());
            }
        }
    }
}

#[test]
fn only_config_reads_the_environment() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    for file in files.iter().filter(|file| !file.starts_with(src.join("config"))) {
        let code = code(file).split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        assert!(!code.contains("env::var"), "{} must not read the environment", file.display());
    }
}
