//! Lets the binaries and tests find the libtorch they were linked with, without LD_LIBRARY_PATH.
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Ok(libtorch) = std::env::var("LIBTORCH") else { return };
    match Path::new(&libtorch).join("lib").canonicalize() {
        Ok(lib) => println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display()),
        Err(error) => println!("cargo:warning=LIBTORCH={libtorch}: {error}; run `make setup`"),
    }
    // A packaged binary finds a libtorch beside it (see Dockerfile).
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
}
