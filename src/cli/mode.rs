//! `etcd-warden mode`: shows or overrides the mode of a running gateway, over its admin socket.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use etcd_warden_gateway::http_client;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::policy::Output;

/// Arguments of `mode`.
#[derive(Debug, Args)]
pub struct ModeArgs {
    /// What to do.
    #[arg(value_enum)]
    action: Action,
    /// The admin socket of the running gateway (its setting `admin-socket`).
    #[arg(
        long,
        value_name = "SOCKET",
        env = "ETCD_WARDEN_ADMIN_SOCKET",
        default_value = "/run/etcd-warden/admin.sock"
    )]
    admin: PathBuf,
    /// How results are written.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Show the mode in effect. Changes nothing.
    Show,
    /// Forward every request, and record what would be denied.
    Shadow,
    /// Deny what the policy does not grant, to all clients.
    Enforce,
    /// Remove the override: the policy's own modes apply.
    Policy,
}

/// How long a mode may take to come into effect. Shadow mode waits until etcd has answered that its
/// own auth is off.
const IN_EFFECT_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Shows or changes the mode. Exit code 0: shown, or in effect; 1: there is no gateway, it has
/// refused, or the mode is not in effect after [`IN_EFFECT_TIMEOUT`].
pub async fn run(
    args: ModeArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let state = match change(&args).await {
        Ok(state) => state,
        Err(error) => {
            writeln!(err, "etcd-warden: {error}")?;
            return Ok(ExitCode::FAILURE);
        }
    };
    match args.output {
        Output::Text => write!(out, "{state}")?,
        Output::Json => writeln!(out, "{:#}", state.0)?,
    }
    if state.differs_from(args.action) {
        let action = args.action.word();
        let why =
            state.text("last_error").unwrap_or("etcd has not reported whether its auth is on");
        writeln!(err, "etcd-warden: the override is set, but `{action}` is not in effect: {why}")?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn change(args: &ModeArgs) -> Result<State, Error> {
    let socket = args.admin.as_path();
    if args.action == Action::Show {
        return State::request(socket, "GET", "/policy", "").await;
    }
    let mut state = State::request(socket, "POST", "/mode", args.action.word()).await?;
    let deadline = Instant::now() + IN_EFFECT_TIMEOUT;
    while state.differs_from(args.action) && Instant::now() < deadline {
        sleep(POLL_INTERVAL).await;
        state = State::request(socket, "GET", "/policy", "").await?;
    }
    Ok(state)
}

impl Action {
    /// The body of `POST /mode`.
    const fn word(self) -> &'static str {
        match self {
            Action::Show => "show",
            Action::Shadow => "shadow",
            Action::Enforce => "enforce",
            Action::Policy => "policy",
        }
    }
}

/// The page `/policy`.
struct State(Value);

impl State {
    async fn request(socket: &Path, method: &str, page: &str, body: &str) -> Result<Self, Error> {
        let error = |kind| Error { socket: socket.to_owned(), kind };
        let (status, text) = http_client::request_at_socket(socket, method, page, body)
            .await
            .map_err(|cause| error(ErrorKind::Exchange(cause)))?;
        if status != 200 {
            return Err(error(ErrorKind::Status(status)));
        }
        let state = serde_json::from_str(&text).ok().map(Self);
        state
            .filter(|state| state.text("mode").is_some() && state.0.get("mode_override").is_some())
            .ok_or_else(|| error(ErrorKind::NotEtcdWarden))
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field)?.as_str()
    }

    /// True while `action` asks for a mode that is not in effect.
    fn differs_from(&self, action: Action) -> bool {
        matches!(action, Action::Shadow | Action::Enforce)
            && self.text("mode") != Some(action.word())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "mode: {}", self.text("mode").unwrap_or_default())?;
        match self.text("mode_override") {
            Some(mode) => writeln!(f, "override: {mode}")?,
            None => writeln!(f, "override: none; a binding may have a mode of its own")?,
        }
        if let Some(generation) = self.0.get("generation") {
            writeln!(f, "policy generation: {generation}")?;
        }
        match self.text("last_error") {
            Some(error) => writeln!(f, "last error: {error}"),
            None => Ok(()),
        }
    }
}

/// Why the gateway could not be reached, or what it has answered.
#[derive(Debug)]
struct Error {
    socket: PathBuf,
    kind: ErrorKind,
}

#[derive(Debug)]
enum ErrorKind {
    Exchange(io::Error),
    Status(u16),
    NotEtcdWarden,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = self.socket.display();
        match &self.kind {
            ErrorKind::Exchange(cause) => match cause.kind() {
                io::ErrorKind::NotFound => write!(
                    f,
                    "there is no socket `{socket}`: start `serve` with the setting \
                     `admin-socket`, or name its socket with `--admin`"
                ),
                io::ErrorKind::PermissionDenied => write!(
                    f,
                    "no permission to open `{socket}`: run this command as root or as the user \
                     of `serve`"
                ),
                io::ErrorKind::ConnectionRefused => {
                    write!(f, "nothing listens on `{socket}`: `serve` is not running")
                }
                io::ErrorKind::InvalidData => {
                    write!(f, "`{socket}` is not the admin socket of etcd-warden: {cause}")
                }
                _ => write!(f, "no answer from `{socket}`: {cause}"),
            },
            ErrorKind::Status(status) => write!(
                f,
                "`{socket}` answers with HTTP status {status}: it is not the admin socket of \
                 etcd-warden, or of another version"
            ),
            ErrorKind::NotEtcdWarden => {
                write!(f, "`{socket}` is not the admin socket of etcd-warden")
            }
        }
    }
}
