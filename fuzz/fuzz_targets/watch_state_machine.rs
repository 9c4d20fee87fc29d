#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| etcd_warden_core::fuzzing::watch_state_machine::run(input));
