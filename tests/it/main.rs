//! Tests of faceid from outside: over HTTP and by its command line, with a real Postgres, the real networks and
//! real photos.

mod auth;
mod bad_input;
mod batch;
mod browsers;
mod buckets;
mod camera;
mod cases;
mod cli;
mod databases;
mod datasets;
mod decisions;
mod detectors;
mod door;
mod encodings;
mod engine;
mod enroll;
mod evaluate;
mod finetuning;
mod forms;
mod freshness;
mod galleries;
mod hostile_images;
mod hostile_models;
mod jobs;
mod layers;
mod lifecycle;
#[path = "../made/mod.rs"]
mod made;
mod models;
mod openapi;
mod places;
mod proxies;
mod real_photos;
mod recognition;
mod replicas;
mod resting;
mod review;
mod serve;
mod shadow;
mod start;
mod stored;
mod support;
mod training;
mod transfer;
mod upkeep;
