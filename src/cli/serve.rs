//! `etcd-warden serve`: from start to stop.

use std::io::ErrorKind;
use std::process::ExitCode;

use etcd_warden_gateway::app::{self, Running};
use etcd_warden_gateway::config::{self, Config, ServeArgs};
use etcd_warden_gateway::systemd::Notifier;
use etcd_warden_gateway::{telemetry, terminal};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit;

/// Serves until a signal says to stop.
pub fn run(args: &ServeArgs) -> ExitCode {
    let (config, effective) = match config::load(args, std::env::vars_os()) {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            terminal::err(format_args!("{}", mistakes.to_string().trim_end()));
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
    if let Err(mistake) = telemetry::init(&config.log) {
        terminal::err(format_args!("etcd-warden: {mistake}"));
        return ExitCode::from(exit::CONFIG);
    }
    let code = on_runtime(serve(config));
    telemetry::flush();
    code
}

/// Runs a command on the main thread's runtime: accept loop, admin pages, health checks, signals.
/// Requests are served by workers.
pub fn on_runtime(work: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let done = runtime.block_on(work);
        // Not to be dropped, which waits for every thread: one may hang in a file system that does
        // not answer.
        runtime.shutdown_background();
        done
    });
    done.unwrap_or_else(|error| {
        terminal::err(format_args!("etcd-warden: {error:#}"));
        ExitCode::FAILURE
    })
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    // Before anything starts: a signal must never find the default action, which is to end at once.
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
    tracing::info!(listen = %running.listen_addr, admin = running.admin_addr.map(tracing::field::display), "serving");
    tokio::spawn(telemetry::report_what_is_left_out());
    let systemd = Notifier::from_env();
    // Nobody needs to know that nobody listens.
    let _ = systemd.ready();
    let name = loop {
        match signals.next().await {
            Asked::Stop(name) => break name,
            Asked::Reload => {
                let _ = systemd.reloading();
                // Files may take a while to come to rest.
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

/// Whether trying again may help: somebody else still has the address, or this host does not have
/// it yet. Service managers that leave a refused configuration alone (`deploy/systemd`) start the
/// service again then.
fn may_pass(error: &anyhow::Error) -> bool {
    let mut kinds = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind);
    kinds.any(|kind| matches!(kind, ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable))
}

async fn reload(running: &Running) {
    running.reopen_audit();
    // Each mistake has been logged.
    let _ = running.reload().await;
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

enum Asked {
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

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
        }
    }

    /// Waits for a signal to stop, and leaves one to reload for later.
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
    fn an_address_that_somebody_else_has_is_worth_another_try_and_a_mistake_is_not() {
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
