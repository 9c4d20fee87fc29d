//! Loads the configuration: reads every source, merges them by precedence and checks the result.

use std::ffi::OsString;
use std::path::PathBuf;

use etcd_warden_core::diagnostics::Diagnostics;

use super::effective::Effective;
use super::flags::ServeArgs;
use super::given::NO_VALUE;
use super::origin::Origin;
use super::{Config, check, env, file};

/// Reads flags, environment variables and the file. `variables` is `std::env::vars_os()`. The file
/// is that of `--config`, else of `ETCD_WARDEN_CONFIG`; without both there is none.
///
/// Opens no other file: certificates, keys and the policy are checked when they are loaded.
///
/// # Errors
/// All errors of all sources.
pub fn load(
    args: &ServeArgs,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(Config, Effective), Diagnostics> {
    let mut errors = Diagnostics::default();
    let Some(effective) = effective(args, variables, &mut errors) else {
        return Err(errors);
    };
    match check::config(&effective, &mut errors) {
        Some(config) if errors.is_empty() => Ok((config, effective)),
        _ => Err(errors),
    }
}

/// The merged sources; `None` if the file cannot be read to its end, because the settings in the
/// rest of it are unknown.
fn effective(
    args: &ServeArgs,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    errors: &mut Diagnostics,
) -> Option<Effective> {
    let variables: Vec<_> = variables.into_iter().collect();
    let from_variable = variables
        .iter()
        .find(|(name, _)| name == env::CONFIG)
        .map(|(_, value)| PathBuf::from(value));
    if from_variable.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        errors.push(Origin::Variable(env::CONFIG.to_owned()).error(NO_VALUE));
        return None;
    }
    let path = args.config.clone().or(from_variable);

    let from_flags = args.given(errors);
    let from_env = env::read(variables, errors);
    let from_file = path.map_or(Some(Vec::new()), |path| file::read(&path, errors))?;
    Some(Effective::merge([&from_flags, &from_env, &from_file]))
}

#[cfg(test)]
mod tests;
