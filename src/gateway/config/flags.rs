//! The flags of `serve`: one for each setting in the table, `--config` and `--print-config`.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};
use etcd_warden_core::diagnostics::Diagnostics;

use super::given::{Given, Item};
use super::origin::Origin;
use super::settings::{DefaultValue, Key, Kind, SETTINGS, Setting, Shape};

/// The flags of `serve` on a command line. A variant `Serve(ServeArgs)` of clap's derive reads
/// them.
#[derive(Clone, Debug, Default)]
pub struct ServeArgs {
    /// `--config`: the configuration file.
    pub config: Option<PathBuf>,
    /// `--print-config`: print the effective configuration and exit.
    pub print_config: bool,
    values: Vec<(Key, Vec<String>)>,
}

impl ServeArgs {
    /// `--config` alone.
    pub fn of_file(config: Option<PathBuf>) -> Self {
        Self { config, ..Self::default() }
    }

    pub(super) fn given(&self, errors: &mut Diagnostics) -> Vec<Given> {
        let given = |(key, texts): &(Key, Vec<String>)| {
            let origin = Origin::Flag(format!("--{key}"));
            let items = Item::split(*key, texts, &origin);
            Given::new(*key, origin.clone(), &origin, items, errors)
        };
        self.values.iter().map(given).collect()
    }
}

const CONFIG_HELP: &str = "Configuration file in YAML, also set by ETCD_WARDEN_CONFIG. Flags take \
                           precedence over environment variables, and these over the file";

impl clap::Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(CONFIG_HELP);
        let print = Arg::new("print-config").long("print-config").action(ArgAction::SetTrue);
        let print =
            print.help("Print the effective configuration with the source of each value, and exit");
        SETTINGS.iter().map(flag).fold(command.arg(config).arg(print), Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = |setting: &Setting| {
            let texts: Vec<String> = matches.get_many::<String>(setting.name)?.cloned().collect();
            Some((setting.key, texts))
        };
        Ok(Self {
            config: matches.get_one("config").cloned(),
            print_config: matches.get_flag("print-config"),
            values: SETTINGS.iter().filter_map(values).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(setting: &'static Setting) -> Arg {
    let default = match setting.default {
        DefaultValue::Value(value) => format!(" [default: {value}]"),
        DefaultValue::Unset(_) => String::new(),
        DefaultValue::Required => " [required]".to_owned(),
    };
    let words = if let Kind::Choice(words) = setting.kind {
        format!(" [{}]", words.join(" or "))
    } else {
        String::new()
    };
    let arg = Arg::new(setting.name)
        .long(setting.name)
        .help(format!("{}{words}{default}", setting.help.trim().trim_end_matches('.')))
        .help_heading(setting.section)
        .value_name(placeholder(setting));
    match (setting.kind, setting.shape) {
        // As in Go: `--pin`, `--pin=true` and `--pin=false`, so that a flag can also override a
        // `true` in the file.
        (Kind::Switch, _) => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        (_, Shape::One) => arg,
        (_, Shape::List | Shape::Named) => arg.action(ArgAction::Append),
    }
}

fn placeholder(setting: &Setting) -> &'static str {
    match setting.kind {
        Kind::Address | Kind::AddressOrNone => "IP:PORT",
        Kind::Network => "NETWORK",
        Kind::Path => "FILE",
        Kind::Endpoint | Kind::ClientUrl => "URL",
        Kind::Switch => "BOOL",
        Kind::Choice(_) => "WORD",
        Kind::Duration(..) => "TIME",
        Kind::Count(..) | Kind::CountOrAuto(..) | Kind::Fraction => "NUMBER",
        Kind::Bytes(..) => "BYTES",
        Kind::LogFilter => "FILTER",
    }
}
