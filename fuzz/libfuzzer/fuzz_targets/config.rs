#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| quicksilver_fuzz::config(data));
