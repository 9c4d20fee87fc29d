//! Real programs that are written in Go, built from the modules of `tools/`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use etcd_warden_testbed::etcd::build::TOOLS_FOLDER;
use sha2::{Digest as _, Sha256};

/// Builds a program by `go build package` in `tools/MODULE`, unless the same source was built
/// before, and returns its path. Concurrent processes build only once.
///
/// # Panics
///
/// With an explanation if there is no Go or the module does not build.
pub fn go_program(module: &str, program: &str, package: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(module);
    let tools = std::env::var_os(TOOLS_FOLDER)
        .map_or_else(|| source.join("../../target/tools"), PathBuf::from);
    let folder = tools.join(format!("{module}-{}", digest(&source)));
    fs::create_dir_all(&folder).unwrap();
    let finished = folder.join(program);
    let lock = File::create(folder.join(format!("{program}.lock"))).unwrap();
    lock.lock().unwrap();
    if !finished.is_file() {
        let unfinished = folder.join(format!("{program}.unfinished"));
        let mut go = Command::new("go");
        go.current_dir(&source)
            .args(["build", "-trimpath", "-mod=readonly", "-ldflags", "-s -w", "-o"])
            .arg(&unfinished)
            .arg(package);
        let output = go.env("CGO_ENABLED", "0").env("GOWORK", "off").output();
        let output = output.unwrap_or_else(|error| {
            panic!("this test needs `go` on PATH, to build {package} in tools/{module}: {error}")
        });
        assert!(
            output.status.success(),
            "{package} in tools/{module} does not build: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::rename(unfinished, &finished).unwrap();
    }
    finished
}

/// A digest of all files of a module, so that any change results in a new folder.
fn digest(source: &Path) -> String {
    let mut files: Vec<PathBuf> =
        fs::read_dir(source).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(fs::read(file).unwrap());
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
