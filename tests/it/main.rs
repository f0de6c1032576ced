//! Tests of faceid from outside: over HTTP and by its command line, with a real Postgres, the real networks and
//! real photos.

mod layers;
mod openapi;
mod recognition;
mod support;
