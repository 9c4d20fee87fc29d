//! Compiles `proto/` into prost types and tonic clients. The protoc is the one that `.cargo/config.toml` names.

use std::path::PathBuf;

const FILES: [&str; 5] = ["mvccpb", "authpb", "etcdserverpb", "v3lockpb", "v3electionpb"];

fn main() -> std::io::Result<()> {
    let files = FILES.map(|package| format!("proto/{package}.proto"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or_else(|| std::io::Error::other("OUT_DIR is not set: run by cargo"))?);
    // The descriptors are what the tests compare with etcd's own.
    tonic_prost_build::configure()
        .build_server(false)
        .file_descriptor_set_path(out.join("descriptors.bin"))
        .compile_protos(&files.each_ref().map(String::as_str), &["proto"])
}
