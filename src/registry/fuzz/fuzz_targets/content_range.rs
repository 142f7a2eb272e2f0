//! See `registry::any_input::content_range`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| registry::any_input::content_range(data));
