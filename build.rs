//! Compiles the C++ shim (src/nn/shim), and lets the binaries and tests find the libtorch they were linked with, without
//! LD_LIBRARY_PATH.
use std::path::Path;

const SHIM: &str = "src/nn/shim";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=migrations"); // embedded by src/db
    println!("cargo:rerun-if-env-changed=FACEID_CHECKOUT"); // see .cargo/config.toml
    // A packaged binary finds a libtorch beside it (see Dockerfile).
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    println!("cargo:rerun-if-changed={SHIM}");
    let Ok(libtorch) = std::env::var("LIBTORCH") else {
        println!("cargo:warning=LIBTORCH is not set: run `make setup`");
        std::process::exit(1);
    };
    compile_shim(Path::new(&libtorch));
    let lib = Path::new(&libtorch).join("lib");
    // `make setup` may lead .deps/libtorch to another folder without LIBTORCH changing.
    println!("cargo:rerun-if-changed={}", lib.join("libtorch_cpu.so").display());
    match lib.canonicalize() {
        Ok(lib) => println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display()),
        Err(error) => println!("cargo:warning=LIBTORCH={libtorch}: {error}; run `make setup`"),
    }
}

fn compile_shim(libtorch: &Path) {
    let mut cpp = cc::Build::new();
    // Fast also in debug builds: tests run real networks.
    cpp.cpp(true).std("c++17").opt_level(3).debug(false).flag_if_supported("-Wno-maybe-uninitialized");
    cpp.include(SHIM);
    let of = |cpp: &cc::Build, name: &str, flags: &[&str]| {
        let mut cpp = cpp.clone();
        for flag in flags {
            cpp.flag_if_supported(flag);
        }
        cpp.file(format!("{SHIM}/{name}.cpp")).compile_intermediates()
    };
    let is_x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let flags = |flags: &'static [&'static str]| if is_x86 { flags } else { &[] };
    let avx512 = flags(&["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]);
    let mut objects = of(&cpp, "threads", &[]);
    objects.extend(of(&cpp, "avx2_f32", flags(&["-mavx2", "-mfma"])));
    objects.extend(of(&cpp, "avx512_f32", avx512));
    objects.extend(of(&cpp, "avx512_bf16", &[avx512, flags(&["-mavx512bf16"])].concat()));
    objects.extend(of(&cpp, "dot", &[]));
    objects.extend(of(&cpp, "dot_avx2", flags(&["-mavx2"])));
    objects.extend(of(&cpp, "dot_avx512_vnni", &[avx512, flags(&["-mavx512vnni"])].concat()));
    // Torch's own headers are no place for our warnings.
    for include in ["include", "include/torch/csrc/api/include"] {
        cpp.flag("-isystem").flag(libtorch.join(include));
    }
    objects.extend(of(&cpp, "tensors", &[]));
    objects.extend(of(&cpp, "prelu", &[]));
    objects.extend(of(&cpp, "script", &[]));
    cc::Build::new().cpp(true).objects(objects).compile("faceid_shim");
}
