//! The one way to a [`Config`]: read every source, let the strongest win, check the result, and
//! answer with all mistakes or none.

use std::ffi::OsString;
use std::path::PathBuf;

use super::diagnostic::{Diagnostic, Diagnostics, Origin};
use super::effective::Effective;
use super::flags::ServeArgs;
use super::{Config, check, env, file};

/// Reads flags, environment and file. `variables` is `std::env::vars_os()`; the file is `--config`,
/// else `ETCD_WARDEN_CONFIG`, else there is none.
///
/// No file but the configuration is opened: whether certificates, keys and the policy are sound is
/// found by those who read them.
///
/// # Errors
/// All mistakes of all sources.
pub fn load(
    args: &ServeArgs,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(Config, Effective), Diagnostics> {
    let mut mistakes = Vec::new();
    let Some(effective) = effective(args, variables, &mut mistakes) else {
        return Err(Diagnostics(mistakes));
    };
    match check::config(&effective, &mut mistakes) {
        Some(config) if mistakes.is_empty() => Ok((config, effective)),
        _ => Err(Diagnostics(mistakes)),
    }
}

/// What the sources say together; `None` when the file cannot be read to its end.
fn effective(
    args: &ServeArgs,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<Effective> {
    let variables: Vec<_> = variables.into_iter().collect();
    let from_variable = variables
        .iter()
        .find(|(name, _)| name == env::CONFIG)
        .map(|(_, value)| PathBuf::from(value));
    if from_variable.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        let origin = Origin::Variable(env::CONFIG.to_owned());
        mistakes.push(Diagnostic {
            origin,
            message: "has no value; leave it out when there is no file".into(),
        });
        return None;
    }
    let path = args.config.clone().or(from_variable);

    let from_flags = args.given(mistakes);
    let from_env = env::read(variables, mistakes);
    let from_file = path.map_or(Some(Vec::new()), |path| file::read(&path, mistakes))?;
    Some(Effective::merge([&from_flags, &from_env, &from_file]))
}

#[cfg(test)]
mod tests;
