//! See `registry::any_input::authorization`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| registry::any_input::authorization(data));
