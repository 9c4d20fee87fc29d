//! Compiles the `.proto` files beside this one into prost types and, with the feature `client`,
//! tonic clients. The protoc is the one that `.cargo/config.toml` names.

use std::path::PathBuf;

const FILES: [&str; 5] = ["mvccpb", "authpb", "etcdserverpb", "v3lockpb", "v3electionpb"];

fn main() -> std::io::Result<()> {
    let files = FILES.map(|package| format!("{package}.proto"));
    let out = PathBuf::from(
        std::env::var_os("OUT_DIR")
            .ok_or_else(|| std::io::Error::other("OUT_DIR is not set: run by cargo"))?,
    );
    // The descriptors are what the tests compare with etcd's own.
    tonic_prost_build::configure()
        .build_server(false)
        .build_client(std::env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .file_descriptor_set_path(out.join("descriptors.bin"))
        .compile_protos(&files.each_ref().map(String::as_str), &["."])
}
