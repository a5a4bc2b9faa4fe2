#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| readyd::fuzzing::systemctl(bytes));
