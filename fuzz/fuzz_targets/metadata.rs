#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| etcd_warden_gateway::fuzzing::run(input));
