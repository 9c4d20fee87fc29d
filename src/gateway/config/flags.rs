//! The flags of `serve`: one for each setting, made from the table, and the two that are not
//! settings.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::given::{Given, Item};
use super::settings::{Default, Key, Kind, SETTINGS, Setting, Shape};
use super::{Diagnostic, Origin};

/// The flags of `serve`, as they were given. Use it with clap's derive: `Serve(ServeArgs)`.
#[derive(Clone, Debug, Default)]
pub struct ServeArgs {
    /// `--config`: the configuration file. Without it, nothing but flags and the environment
    /// counts.
    pub config: Option<PathBuf>,
    /// `--print-config`: show what would be in effect, and from where, and end.
    pub print_config: bool,
    values: Vec<(Key, Vec<String>)>,
}

impl ServeArgs {
    /// No flag but the file.
    #[must_use]
    pub fn of_file(config: Option<PathBuf>) -> Self {
        Self { config, ..Self::default() }
    }

    pub(super) fn given(&self, mistakes: &mut Vec<Diagnostic>) -> Vec<Given> {
        let given = |(key, texts): &(Key, Vec<String>)| {
            let origin = Origin::Flag(format!("--{key}"));
            let items = Item::split(*key, texts, &origin);
            Given::new(*key, origin.clone(), origin, items, mistakes)
        };
        self.values.iter().map(given).collect()
    }
}

impl clap::Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("The configuration file, YAML. Flags win over environment variables (ETCD_WARDEN_CONFIG names the file), and these over the file");
        let print = Arg::new("print-config").long("print-config").action(ArgAction::SetTrue);
        let print = print.help(
            "Show the configuration that is in effect, and where each value comes from, and end",
        );
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
        Default::Value(value) => format!(" [default: {value}]"),
        Default::Unset(_) => String::new(),
        Default::Required => " [required]".to_owned(),
    };
    let words = if let Kind::Choice(words) = setting.kind {
        format!(" [{}]", words.join(" or "))
    } else {
        String::new()
    };
    let arg = Arg::new(setting.name)
        .long(setting.name)
        .help(format!("{}{words}{default}", setting.meaning.trim().trim_end_matches('.')))
        .help_heading(setting.section)
        .value_name(placeholder(setting));
    match (setting.kind, setting.shape) {
        // As in Go: `--pin`, `--pin=true` and `--pin=false`, so that a flag can also take back what
        // the file says.
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
