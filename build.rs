//! Sets the variables for `etcd-warden --version`: commit, compiler, TLS library and features.

use std::process::Command;

fn main() {
    // `Cargo.lock` has the versions that are linked.
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rerun-if-env-changed=ETCD_WARDEN_COMMIT");
    let lock = std::fs::read_to_string("Cargo.lock").unwrap_or_default();
    let tls =
        ["rustls", "aws-lc-rs"].map(|package| format!("{package} {}", locked(&lock, package)));
    println!("cargo::rustc-env=BUILD_TLS={}", tls.join(", "));
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    println!(
        "cargo::rustc-env=BUILD_RUSTC={}",
        output_of(&compiler, &["--version"]).unwrap_or_else(|| "rustc, unknown".to_owned())
    );
    println!("cargo::rustc-env=BUILD_COMMIT={}", commit());
    let features = ["tools", "demo"].into_iter().filter(|name| {
        std::env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some()
    });
    let features = features.collect::<Vec<_>>().join(", ");
    println!(
        "cargo::rustc-env=BUILD_FEATURES={}",
        if features.is_empty() { "none" } else { &features }
    );
}

/// The commit of the source, from git, or from ETCD_WARDEN_COMMIT where the source has no history
/// (when an image is built).
fn commit() -> String {
    if let Ok(commit) = std::env::var("ETCD_WARDEN_COMMIT") {
        return commit;
    }
    // A commit changes the first of these files, a checkout the second.
    for path in ["logs/HEAD", "HEAD"] {
        if let Some(path) = output_of("git", &["rev-parse", "--git-path", path])
            .filter(|path| std::path::Path::new(path).exists())
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    output_of("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

/// The version of a package in `Cargo.lock`.
fn locked(lock: &str, package: &str) -> String {
    let entry = format!("name = \"{package}\"\nversion = \"");
    let version = lock.split_once(&entry).and_then(|(_, rest)| rest.split('"').next());
    version.unwrap_or("unknown").to_owned()
}

/// The output of a command, if it can be run.
fn output_of(program: &str, args: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
