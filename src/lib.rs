//! faceid: an HTTP face-recognition service.
//!
//! The layers point one way: `http` and `cli` -> `service` -> `vision`, `engine`, `gallery`, `registry`,
//! `jobs`, `access`; `service` -> `resident` -> `gallery`, `index`; `cli` -> `transfer` -> `gallery`, `registry`, `vision`; `cli` -> `migration` -> `service`, `gallery`, `access`; `engine`, `index` and `training` -> `nn`; `gallery`,
//! `registry`, `jobs` and `access` -> `audit`, `db`; `audit` -> `db`; `service` -> `blobs`. A test in `tests/it/layers.rs` holds them to it.

pub mod access;
pub mod app;
pub mod audit;
pub mod bench;
pub mod blobs;
pub mod cli;
pub mod config;
pub mod db;
pub mod engine;
pub mod evaluation;
#[cfg(any(test, fuzzing))]
pub mod fuzz_tests;
pub mod gallery;
pub mod http;
pub mod index;
pub mod jobs;
pub mod limits;
pub mod migration;
pub mod nn;
pub mod registry;
pub mod resident;
pub mod sealing;
pub mod service;
pub mod signing;
pub mod telemetry;
pub mod training;
pub mod transfer;
pub mod types;
pub mod vision;
pub mod walk;
