//! `certs renew`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use etcd_warden_core::diagnostics::Diagnostics;
use etcd_warden_core::printable::Printable;
use etcd_warden_tools::certs::ca::{OldCa, certificates, pem_of};
use etcd_warden_tools::certs::found::{Sight, look};
use etcd_warden_tools::certs::key::KeyType;
use etcd_warden_tools::certs::renew::{Fate, Outcome, Terms, renew};
use etcd_warden_tools::certs::store::Store;

use super::authority::CaArgs;
use super::issue::lifetime;
use super::progress::Progress;
use super::tell;

/// Arguments of `certs renew`.
#[derive(Debug, Args)]
pub struct RenewArgs {
    /// A folder with what `certs issue` made, or one file of it.
    #[arg(value_name = "DIR|FILE")]
    place: PathBuf,
    #[command(flatten)]
    ca: CaArgs,
    /// Renew what ends within this time; a third of its lifetime if not given.
    #[arg(long, value_name = "TIME", value_parser = before)]
    before: Option<Duration>,
    /// How long the new ones hold; as long as the old ones if not given. Never longer than the CA.
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    lifetime: Option<Duration>,
    /// Renew also what has expired: whoever has its key has a valid certificate again.
    #[arg(long)]
    expired: bool,
    /// Renew the certificate alone, for the same key: one file changes, so that no reader can see
    /// half of a pair.
    #[arg(long)]
    keep_key: bool,
    /// What new keys are; as the old ones if not given.
    #[arg(long, value_enum, conflicts_with = "keep_key")]
    key_type: Option<KeyType>,
    /// Take over, now, what this CA has issued: for a move to a new CA.
    #[arg(long, value_name = "FILE")]
    old_ca: Option<PathBuf>,
    /// Write this as `etcd-ca` beside each renewed `etcd-cert`.
    #[arg(long, value_name = "FILE")]
    server_ca: Option<PathBuf>,
    /// Say what would be renewed, and write nothing.
    #[arg(long)]
    dry_run: bool,
}

fn before(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "write a time with its unit, such as `30d`".to_owned())
}

/// Runs `certs renew`: whether anything that is due could not be renewed.
pub(super) fn run(
    args: &RenewArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<bool, Diagnostics> {
    let mut wrong = Diagnostics::default();
    let ca = args.ca.load().map_err(|mistakes| wrong.append(mistakes)).ok();
    let terms = args.terms().map_err(|mistakes| wrong.append(mistakes)).ok();
    if !args.place.exists() {
        wrong.append(Diagnostics::about(
            &args.place.display().to_string(),
            "there is no such folder or file",
            None,
        ));
    }
    let (Some(ca), Some(terms), false) = (ca, terms, wrong.has_errors()) else {
        return Err(wrong);
    };
    let folder = if args.place.is_dir() {
        args.place.as_path()
    } else {
        args.place.parent().unwrap_or(Path::new(""))
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    // First of all, so that what an earlier run left is looked at too, and nobody changes it
    // meanwhile.
    let store = if args.dry_run { None } else { Some(Store::open(folder)?) };
    let (store, note) = store.unzip();
    tell(note.flatten(), err);
    let place = if args.place.is_dir() {
        folder.to_owned()
    } else {
        folder.join(args.place.file_name().unwrap_or_default())
    };
    let sight = look(&place)?;
    let progress = Progress::new(sight.certificates.len());
    let outcome =
        renew(&ca, &sight, folder, &terms, SystemTime::now(), &|count| progress.done(count));
    progress.end();
    if let Some(store) = store.filter(|_| !outcome.files.is_empty()) {
        store.put(&outcome.files)?;
    }
    Ok(say(&sight, &outcome, args.dry_run, out))
}

impl RenewArgs {
    fn terms(&self) -> Result<Terms, Diagnostics> {
        let server_ca = self.server_ca.as_ref().map(|path| certificates(path)).transpose()?;
        Ok(Terms {
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

/// Tells what became of each, and whether any failed. What is not due is counted.
fn say(sight: &Sight, outcome: &Outcome, dry_run: bool, out: &mut dyn Write) -> bool {
    let date = |at: SystemTime| humantime::format_rfc3339_seconds(at).to_string();
    let (mut renewed, mut failed, mut not_yet, mut next) =
        (0_usize, 0_usize, 0_usize, None::<SystemTime>);
    let word = if dry_run { "due" } else { "renewed" };
    for (found, fate) in sight.certificates.iter().zip(&outcome.fates) {
        let place = found.place();
        let place = Printable(&place);
        let _ = match fate {
            Fate::Renewed(until) => {
                renewed += 1;
                writeln!(out, "{word}: {place}, until {}", date(*until))
            }
            Fate::NotYet(at) => {
                not_yet += 1;
                next = Some(next.map_or(*at, |next| next.min(*at)));
                Ok(())
            }
            Fate::Ca => Ok(()),
            Fate::Left(why) => writeln!(out, "left: {place}: {}", Printable(why)),
            Fate::Failed(why) => {
                failed += 1;
                writeln!(out, "failed: {place}: {}", Printable(why))
            }
        };
    }
    failed += others(sight, out);
    let next = next.map_or(String::new(), |next| format!(" (the first on {})", date(next)));
    let _ = writeln!(out, "{word}: {renewed}, not due yet: {not_yet}{next}, failed: {failed}");
    failed > 0
}

/// Tells what holds no certificate; and how many of these should.
fn others(sight: &Sight, out: &mut dyn Write) -> usize {
    for other in &sight.others {
        let word = if other.lost { "failed" } else { "skipped" };
        let _ = writeln!(
            out,
            "{word}: {}: {}",
            Printable(&other.file.display().to_string()),
            Printable(&other.what)
        );
    }
    sight.others.iter().filter(|other| other.lost).count()
}
