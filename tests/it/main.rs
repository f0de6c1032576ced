//! Tests of faceid from outside: over HTTP and by its command line, with a real Postgres, the real networks and
//! real photos.

mod auth;
mod bad_input;
mod cli;
mod engine;
mod enroll;
mod galleries;
mod layers;
mod models;
mod openapi;
mod recognition;
mod serve;
mod support;
