//! A folder, a CA that OpenSSL created in it, and the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use etcd_warden_testbed::pki::Issued;
use tempfile::TempDir;

/// The output of a run.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Standard output of a run that must have ended with this code.
    #[track_caller]
    pub fn ended(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self.out
    }

    /// The error of a run that must have changed nothing; it must contain these words.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(78), ""), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "`{word}` is not in:\n{}", self.err);
        }
        self.err
    }
}

pub struct Fixture(pub TempDir);

impl Fixture {
    /// With a CA of this kind: arguments of `openssl req -newkey`.
    pub fn new(kind: &[&str]) -> Self {
        let fixture = Self(tempfile::tempdir().unwrap());
        fixture.ca("/CN=clients-ca", kind);
        fixture
    }

    /// Replaces the CA. OpenSSL is strict only with a CA that has a key usage.
    pub fn ca(&self, subject: &str, kind: &[&str]) {
        let usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"];
        let arguments = [
            "req", "-x509", "-nodes", "-days", "400", "-subj", subject, "-keyout", "ca.key",
            "-out", "ca.crt", "-newkey",
        ];
        self.openssl(&[&arguments, kind, &usage].concat());
    }

    /// With the default CA.
    pub fn usual() -> Self {
        Self::new(P256)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A certificate set that was issued.
    pub fn set(&self, folder: &str) -> Issued {
        Issued {
            certificate: self.text(&format!("{folder}/etcd-cert")),
            key: self.text(&format!("{folder}/etcd-key")),
        }
    }

    /// Runs OpenSSL in the folder; it must succeed.
    #[track_caller]
    pub fn openssl(&self, arguments: &[&str]) -> String {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output();
        let output =
            output.unwrap_or_else(|error| panic!("these tests need `openssl` on PATH: {error}"));
        Ran::of(output).ended(0)
    }

    /// Runs `etcd-warden certs` in the folder.
    pub fn certs(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Runs `etcd-warden certs issue` with the CA of the folder.
    pub fn issue(&self, arguments: &[&str]) -> Ran {
        self.certs(&[&["issue", "--ca-cert", "ca.crt", "--ca-key", "ca.key"], arguments].concat())
    }

    /// Runs `etcd-warden certs renew` with the CA of the folder.
    pub fn renew(&self, arguments: &[&str]) -> Ran {
        self.certs(&[&["renew", "--ca-cert", "ca.crt", "--ca-key", "ca.key"], arguments].concat())
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
        command.arg("certs").args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Every file below a folder.
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        fn below(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() { below(&entry, found) } else { found.push(entry) }
            }
        }
        let mut found = Vec::new();
        below(&self.path(folder), &mut found);
        found.sort();
        found
    }
}

pub const P256: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
