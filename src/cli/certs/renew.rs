//! `certs renew`: arguments and output.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use etcd_warden_core::diagnostics::Diagnostics;
use etcd_warden_core::printable::Printable;
use etcd_warden_tools::certs::ca::{OldCa, certificates, pem_of};
use etcd_warden_tools::certs::inventory::{Inventory, scan};
use etcd_warden_tools::certs::key::KeyType;
use etcd_warden_tools::certs::renew::{Outcome, RenewOptions, RenewalResult, renew};
use etcd_warden_tools::certs::store::Store;

use super::authority::CaArgs;
use super::issue::lifetime;
use super::print_notes;
use super::progress::Progress;

/// Arguments of `certs renew`.
#[derive(Debug, Args)]
pub struct RenewArgs {
    /// A directory with files of `certs issue`, or one such file.
    #[arg(value_name = "DIR|FILE")]
    place: PathBuf,
    #[command(flatten)]
    ca: CaArgs,
    /// Renew certificates that expire within this time. Default: a third of their lifetime.
    #[arg(long, value_name = "TIME", value_parser = before)]
    before: Option<Duration>,
    /// The lifetime of new certificates. Default: that of the old ones. They never outlive the CA.
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    lifetime: Option<Duration>,
    /// Renew expired certificates, too. A holder of such a key then has a valid certificate again.
    #[arg(long)]
    expired: bool,
    /// Renew the certificate for the same key. Only one file changes, so no reader can see a
    /// certificate without its key.
    #[arg(long)]
    keep_key: bool,
    /// The type of new keys. Default: that of the old key.
    #[arg(long, value_enum, conflicts_with = "keep_key")]
    key_type: Option<KeyType>,
    /// Also renew, immediately, the certificates that this CA has issued: for a move to a new CA.
    #[arg(long, value_name = "FILE")]
    old_ca: Option<PathBuf>,
    /// Write this CA as `etcd-ca` beside each renewed `etcd-cert`.
    #[arg(long, value_name = "FILE")]
    server_ca: Option<PathBuf>,
    /// Print what would be renewed. Writes nothing.
    #[arg(long)]
    dry_run: bool,
}

fn before(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "write a duration with its unit, such as `30d`".to_owned())
}

/// Runs `certs renew`. True if a due certificate could not be renewed.
pub(super) fn run(
    args: &RenewArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<bool, Diagnostics> {
    let mut wrong = Diagnostics::default();
    let ca = args.ca.load().map_err(|errors| wrong.append(errors)).ok();
    let options = args.options().map_err(|errors| wrong.append(errors)).ok();
    if !args.place.exists() {
        wrong.append(Diagnostics::about(
            &args.place.display().to_string(),
            "there is no such directory or file",
            None,
        ));
    }
    let (Some(ca), Some(options), false) = (ca, options, wrong.has_errors()) else {
        return Err(wrong);
    };
    let folder = if args.place.is_dir() {
        args.place.as_path()
    } else {
        args.place.parent().unwrap_or(Path::new(""))
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    // Open the directory first: this completes an interrupted run, whose files are then scanned,
    // and no other run can change them.
    let store = if args.dry_run { None } else { Some(Store::open(folder)?) };
    let (store, note) = store.unzip();
    print_notes(note.flatten(), err);
    let place = if args.place.is_dir() {
        folder.to_owned()
    } else {
        folder.join(args.place.file_name().unwrap_or_default())
    };
    let inventory = scan(&place)?;
    let progress = Progress::new(inventory.certificates.len());
    let outcome =
        renew(&ca, &inventory, folder, &options, SystemTime::now(), &|count| progress.done(count));
    progress.end();
    if let Some(store) = store.filter(|_| !outcome.files.is_empty()) {
        store.put(&outcome.files)?;
    }
    Ok(print_results(&inventory, &outcome, args.dry_run, out))
}

impl RenewArgs {
    fn options(&self) -> Result<RenewOptions, Diagnostics> {
        let server_ca = self.server_ca.as_ref().map(|path| certificates(path)).transpose()?;
        Ok(RenewOptions {
            before: self.before,
            lifetime: self.lifetime,
            expired: self.expired,
            keep_key: self.keep_key,
            key_type: self.key_type,
            old_ca: self.old_ca.as_ref().map(|path| OldCa::load(path)).transpose()?,
            server_ca: server_ca.map(|chain| chain.iter().map(|der| pem_of(der)).collect()),
        })
    }
}

/// Prints the result for each certificate; those that are not due are counted. True if any failed.
fn print_results(
    inventory: &Inventory,
    outcome: &Outcome,
    dry_run: bool,
    out: &mut dyn Write,
) -> bool {
    let date = |at: SystemTime| humantime::format_rfc3339_seconds(at).to_string();
    let (mut renewed, mut failed, mut not_yet, mut next) =
        (0_usize, 0_usize, 0_usize, None::<SystemTime>);
    let word = if dry_run { "due" } else { "renewed" };
    for (found, result) in inventory.certificates.iter().zip(&outcome.results) {
        let place = found.place();
        let place = Printable(&place);
        let _ = match result {
            RenewalResult::Renewed(until) => {
                renewed += 1;
                writeln!(out, "{word}: {place}, until {}", date(*until))
            }
            RenewalResult::NotDue(at) => {
                not_yet += 1;
                next = Some(next.map_or(*at, |next| next.min(*at)));
                Ok(())
            }
            RenewalResult::Ca => Ok(()),
            RenewalResult::Skipped(why) => writeln!(out, "skipped: {place}: {}", Printable(why)),
            RenewalResult::Failed(why) => {
                failed += 1;
                writeln!(out, "failed: {place}: {}", Printable(why))
            }
        };
    }
    failed += others(inventory, out);
    let next = next.map_or(String::new(), |next| format!(" (the first on {})", date(next)));
    let _ = writeln!(out, "{word}: {renewed}, not due yet: {not_yet}{next}, failed: {failed}");
    failed > 0
}

/// Prints files without a certificate, and returns the number of those that should have one.
fn others(inventory: &Inventory, out: &mut dyn Write) -> usize {
    for other in &inventory.others {
        let word = if other.suspect { "failed" } else { "skipped" };
        let _ = writeln!(
            out,
            "{word}: {}: {}",
            Printable(&other.file.display().to_string()),
            Printable(&other.what)
        );
    }
    inventory.others.iter().filter(|other| other.suspect).count()
}
