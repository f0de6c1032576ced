#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = faceid::fuzz_tests::form(bytes);
});
