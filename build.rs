//! Lets the binaries and tests find the libtorch they were linked with, without LD_LIBRARY_PATH.
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=migrations"); // embedded by src/db
    println!("cargo:rerun-if-env-changed=FACEID_CHECKOUT"); // see .cargo/config.toml
    // A packaged binary finds a libtorch beside it (see Dockerfile).
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    let Ok(libtorch) = std::env::var("LIBTORCH") else { return };
    let lib = Path::new(&libtorch).join("lib");
    // `make setup` may lead .deps/libtorch to another folder without LIBTORCH changing.
    println!("cargo:rerun-if-changed={}", lib.join("libtorch_cpu.so").display());
    match lib.canonicalize() {
        Ok(lib) => println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display()),
        Err(error) => println!("cargo:warning=LIBTORCH={libtorch}: {error}; run `make setup`"),
    }
}
