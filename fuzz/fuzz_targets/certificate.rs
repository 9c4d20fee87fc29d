#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| etcd_warden_core::fuzzing::certificate::run(input));
