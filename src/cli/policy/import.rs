//! `policy import`: converts etcd's own users and roles to a policy.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use etcd_warden_core::policy::import::{EtcdRole, EtcdUser, import};
use etcd_warden_gateway::config::{self, ServeArgs};
use etcd_warden_gateway::tls::{LiveTls, Tls};
use etcd_warden_gateway::upstream::control::{Control, ControlError};
use etcd_warden_gateway::upstream::members::Members;

use crate::cli::exit;

/// For reading all users and roles, one request each.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Arguments of `policy import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The configuration file of `serve`. Requests use the gateway's certificate for etcd; its
    /// common name must be an etcd user with the role `root`.
    #[arg(long, value_name = "FILE", env = "ETCD_WARDEN_CONFIG")]
    config: Option<PathBuf>,
}

/// Reads users and roles from etcd, and writes the policy to `out`.
pub(super) fn run(
    args: &ImportArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> std::io::Result<u8> {
    let variables = std::env::vars_os().filter(|(name, _)| name != "ETCD_WARDEN_CONFIG");
    let config = match config::load(&ServeArgs::of_file(args.config.clone()), variables) {
        Ok((config, _)) => config,
        Err(errors) => return writeln!(err, "{errors}").map(|()| exit::CONFIG),
    };
    let tls = match Tls::load(&config) {
        Ok(tls) => tls,
        Err(errors) => return writeln!(err, "{errors}").map(|()| exit::CONFIG),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        let members = Arc::new(Members::new(&config.upstream.endpoints, config.upstream.pin));
        let control = Control::new(members.clone(), Arc::new(LiveTls::new(tls)));
        let found = tokio::time::timeout(TIMEOUT, found(&members, &control)).await;
        found.unwrap_or_else(|_| Err(ControlError::Failed("no complete answer within 120 s")))
    });
    match answer {
        Ok((roles, users)) => {
            let imported = import(&roles, &users);
            for note in imported.notes {
                writeln!(err, "note: {note}")?;
            }
            write!(out, "{}", imported.text)?;
            Ok(0)
        }
        Err(error) => {
            writeln!(err, "etcd-warden: cannot read users and roles from etcd: {error}")?;
            Ok(1)
        }
    }
}

/// Users and roles, from the first member that returns them.
async fn found(
    members: &Members,
    control: &Control,
) -> Result<(Vec<EtcdRole>, Vec<EtcdUser>), ControlError> {
    let mut last = ControlError::Failed("no member");
    for (index, _) in members.iter() {
        match control.users_and_roles(index).await {
            Ok(found) => return Ok(found),
            Err(error) => last = error,
        }
    }
    Err(last)
}
