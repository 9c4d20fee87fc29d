//! Programs of `tools/` that are written in Go, because the client library that they show is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

/// The program of `tools/NAME`, built unless this very source was built before. Two processes at once build once.
pub fn go_tool(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(name);
    let tools = std::env::var_os(etcd_warden::etcd::build::TOOLS_FOLDER).map_or_else(|| source.join("../../target/tools"), PathBuf::from);
    let mut hash = Sha256::new();
    for file in ["main.go", "go.mod", "go.sum"] {
        hash.update(fs::read(source.join(file)).unwrap());
    }
    let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let program = tools.join(format!("{name}-{digest}"));
    fs::create_dir_all(&tools).unwrap();
    let lock = File::create(tools.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if !program.is_file() {
        let unfinished = program.with_extension("unfinished");
        let mut go = Command::new("go");
        go.current_dir(&source)
            .args(["build", "-trimpath", "-mod=readonly", "-o"])
            .arg(&unfinished)
            .arg(".")
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off");
        let output = go.output();
        let output = output.unwrap_or_else(|error| panic!("this test needs `go` on PATH, to build tools/{name}: {error}"));
        assert!(output.status.success(), "tools/{name} does not build: {}", String::from_utf8_lossy(&output.stderr));
        fs::rename(unfinished, &program).unwrap();
    }
    program
}
