//! Reads the CA's files and the passphrase of its key: from a file, the environment or the
//! terminal, never from the command line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;

use clap::Args;
use etcd_warden_core::diagnostics::Diagnostics;
use etcd_warden_gateway::files::ReadError;
use etcd_warden_tools::certs::ca::{Ca, CaFiles};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// Bytes of a passphrase file that are read.
const LONGEST: u64 = 1 << 16;

/// The environment variable that holds the passphrase.
const VARIABLE: &str = "ETCD_WARDEN_CA_KEY_PASSPHRASE";

/// Options for the operator's CA.
#[derive(Debug, Args)]
pub struct CaArgs {
    /// Certificate of the issuing CA, PEM; for an intermediate CA, followed by the CAs above it.
    #[arg(long, value_name = "FILE", env = "ETCD_WARDEN_CA_CERT")]
    ca_cert: PathBuf,
    /// Private key of the CA, PEM: PKCS #8 or OpenSSL's older forms, encrypted or not.
    #[arg(long, value_name = "FILE", env = "ETCD_WARDEN_CA_KEY")]
    ca_key: PathBuf,
    /// A file with the passphrase of the key on its first line. Without it, the passphrase comes
    /// from ETCD_WARDEN_CA_KEY_PASSPHRASE or is asked for on the terminal.
    #[arg(long, value_name = "FILE")]
    ca_key_passphrase_file: Option<PathBuf>,
}

impl CaArgs {
    /// Reads and checks the CA.
    pub(super) fn load(&self) -> Result<Ca, Diagnostics> {
        let files = CaFiles { certificate: self.ca_cert.clone(), key: self.ca_key.clone() };
        Ca::load(&files, || self.passphrase())
    }

    fn passphrase(&self) -> Result<Zeroizing<Vec<u8>>, Diagnostics> {
        if let Some(path) = &self.ca_key_passphrase_file {
            let name = path.display().to_string();
            let mut line = Zeroizing::new(Vec::new());
            // The path may be a pipe (`<(pass show ca)`), so that the passphrase is never on disk.
            let read = File::open(path)
                .and_then(|file| BufReader::new(file.take(LONGEST)).read_until(b'\n', &mut line));
            return match read {
                Ok(_) => Ok(without_line_end(line)),
                Err(error) => Err(Diagnostics::about(
                    &name,
                    format!("the file {}", ReadError::from(error)),
                    None,
                )),
            };
        }
        if let Some(value) = std::env::var_os(VARIABLE) {
            return Ok(Zeroizing::new(value.into_encoded_bytes()));
        }
        match File::options().read(true).write(true).open("/dev/tty") {
            Ok(terminal) if std::io::stderr().is_terminal() => {
                read_passphrase(&terminal).map_err(|error| {
                    Diagnostics::about(
                        "--ca-key",
                        format!("cannot read the passphrase from the terminal: {error}"),
                        None,
                    )
                })
            }
            _ => Err(Diagnostics::about(
                &self.ca_key.display().to_string(),
                "the key is encrypted, and no passphrase is given",
                Some("use `--ca-key-passphrase-file FILE` or set ETCD_WARDEN_CA_KEY_PASSPHRASE"),
            )),
        }
    }
}

/// Asks for the passphrase with echo switched off.
fn read_passphrase(mut terminal: &File) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let shown = tcgetattr(terminal)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    hidden.local_modes.insert(LocalModes::ECHONL);
    terminal.write_all(b"Passphrase of the CA's key: ")?;
    tcsetattr(terminal, OptionalActions::Flush, &hidden)?;
    let mut line = Zeroizing::new(Vec::new());
    let read = BufReader::new(terminal).read_until(b'\n', &mut line);
    tcsetattr(terminal, OptionalActions::Flush, &shown)?;
    read.map(|_| without_line_end(line))
}

fn without_line_end(mut line: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.pop();
    }
    line
}
