//! `etcd-warden serve`: starts the gateway and handles signals until it stops.

use std::io::ErrorKind;
use std::process::ExitCode;

use etcd_warden_gateway::app::{self, Running};
use etcd_warden_gateway::config::{self, Config, ServeArgs};
use etcd_warden_gateway::systemd::Notifier;
use etcd_warden_gateway::{telemetry, terminal};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit;

/// Serves until SIGTERM or SIGINT. Exit code 0: drained; 1: the start failed and a retry may help;
/// 78: the configuration has errors.
pub fn run(args: &ServeArgs) -> ExitCode {
    let (config, effective) = match config::load(args, std::env::vars_os()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            terminal::err(format_args!("{}", errors.to_string().trim_end()));
            return ExitCode::from(exit::CONFIG);
        }
    };
    if args.print_config {
        return match terminal::out(format_args!("{effective}")) {
            Err(error) => {
                terminal::err(format_args!("etcd-warden: cannot print the configuration: {error}"));
                ExitCode::FAILURE
            }
            Ok(()) => ExitCode::SUCCESS,
        };
    }
    if let Err(error) = telemetry::init(&config.log) {
        terminal::err(format_args!("etcd-warden: {error}"));
        return ExitCode::from(exit::CONFIG);
    }
    let code = on_runtime(serve(config));
    telemetry::flush();
    code
}

/// Runs a command on a current-thread runtime. For `serve` this is the main thread: accept loop,
/// admin pages, health checks and signals. Worker threads serve the requests.
pub fn on_runtime(work: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let done = runtime.block_on(work);
        // Dropping the runtime would wait for every thread, and one may hang in a file system
        // that does not answer.
        runtime.shutdown_background();
        done
    });
    done.unwrap_or_else(|error| {
        terminal::err(format_args!("etcd-warden: {error:#}"));
        ExitCode::FAILURE
    })
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    // First of all: until a handler is installed, a signal ends the process at once.
    let mut signals = Signals::new()?;
    let running = match app::start(config).await {
        Ok(running) => running,
        Err(error) => {
            terminal::err(format_args!("etcd-warden: {error:#}"));
            return Ok(if may_pass(&error) {
                ExitCode::FAILURE
            } else {
                ExitCode::from(exit::CONFIG)
            });
        }
    };
    tracing::info!(
        listen = %running.listen_addr,
        admin = running.admin_addr.map(tracing::field::display),
        "serving"
    );
    tokio::spawn(telemetry::report_lost_lines());
    let systemd = Notifier::from_env();
    // Fails if there is no service manager, which is fine.
    let _ = systemd.ready();
    let name = loop {
        match signals.next().await {
            Request::Stop(name) => break name,
            Request::Reload => {
                let _ = systemd.reloading();
                // A reload waits until changed files have settled. A signal to stop interrupts it.
                let stopped = tokio::select! {
                    () = reload(&running) => None,
                    name = signals.stop() => Some(name),
                };
                if let Some(name) = stopped {
                    break name;
                }
                let _ = systemd.ready();
            }
        }
    };
    tracing::info!(signal = name, "draining");
    let _ = systemd.stopping();
    running.shutdown(signals.stop_again()).await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// True if a retry may help: another process still has the address, or this host does not have it
/// yet. A service manager that does not restart after exit code 78 (`deploy/systemd`) starts the
/// service again in this case.
fn may_pass(error: &anyhow::Error) -> bool {
    let mut kinds = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind);
    kinds.any(|kind| matches!(kind, ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable))
}

async fn reload(running: &Running) {
    running.reopen_audit();
    // Each error has been logged.
    let _ = running.reload().await;
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

enum Request {
    Reload,
    Stop(&'static str),
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.hangup.recv() => Request::Reload,
            _ = self.terminate.recv() => Request::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Request::Stop("SIGINT"),
        }
    }

    /// Waits for a signal to stop. A SIGHUP meanwhile is kept for [`Signals::next`].
    async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    async fn stop_again(&mut self) {
        self.stop().await;
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn only_an_address_in_use_is_worth_a_retry() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let in_use = std::net::TcpListener::bind(address).context("cannot listen").unwrap_err();
        assert!(may_pass(&in_use));
        let missing = std::fs::read("/nonexistent/lease.key")
            .context("cannot read the lease key")
            .unwrap_err();
        assert!(!may_pass(&missing));
    }
}
