//! See `registry::any_input::htpasswd`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| registry::any_input::htpasswd(data));
