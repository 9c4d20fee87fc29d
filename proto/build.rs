//! Compiles the `.proto` files in this directory into prost types and, with the feature `client`,
//! tonic clients. `.cargo/config.toml` sets the path of protoc.

use std::path::PathBuf;

const FILES: [&str; 5] = ["mvccpb", "authpb", "etcdserverpb", "v3lockpb", "v3electionpb"];

fn main() -> std::io::Result<()> {
    let files = FILES.map(|package| format!("{package}.proto"));
    let out = PathBuf::from(
        std::env::var_os("OUT_DIR")
            .ok_or_else(|| std::io::Error::other("OUT_DIR is not set; run this through cargo"))?,
    );
    // The tests compare the descriptors with etcd's.
    tonic_prost_build::configure()
        .build_server(false)
        .build_client(std::env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .file_descriptor_set_path(out.join("descriptors.bin"))
        .compile_protos(&files.each_ref().map(String::as_str), &["."])
}
