//! See `registry::any_input::manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| registry::any_input::manifest(data));
