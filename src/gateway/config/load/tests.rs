use std::io::Write;

use clap::Parser;

use super::super::settings::{DefaultValue, Key, Kind, SETTINGS, Setting, Shape};
use super::*;

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    serve: ServeArgs,
}

fn args(flags: &[String]) -> ServeArgs {
    Command::try_parse_from(std::iter::once("serve").chain(flags.iter().map(String::as_str)))
        .unwrap()
        .serve
}

fn variables(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// The settings that have no default.
const BASE: &str = "cert-file: s.crt\nkey-file: s.key\ntrusted-ca-file: ca.crt\ncacert: etcd-ca.crt\npolicy: policy.yaml\n";

fn with(settings: &[(Key, &str)], base: &str) -> Result<(Config, Effective), Diagnostics> {
    let base = file(base);
    let variables: Vec<_> =
        settings.iter().map(|(key, text)| (key.setting().variable().into(), text.into())).collect();
    load(&args(&["--config".into(), base.path().display().to_string()]), variables)
}

/// The messages of all errors.
fn messages(errors: &Diagnostics) -> Vec<String> {
    errors.iter().map(|error| error.message.clone()).collect()
}

/// The errors of the base with these changes.
fn errors(settings: &[(Key, &str)]) -> Vec<String> {
    with(settings, BASE).err().as_ref().map_or_else(Vec::new, messages)
}

/// Three values of a kind that differ from each other and from any default.
fn samples(kind: Kind) -> [&'static str; 3] {
    match kind {
        Kind::Address | Kind::AddressOrNone => ["10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3"],
        Kind::Network => ["10.0.0.0/8", "11.0.0.0/8", "fd00::/8"],
        Kind::Path => ["/a", "/b", "/c"],
        Kind::Endpoint | Kind::ClientUrl => ["https://a:1", "https://b:2", "https://c:3"],
        Kind::Switch => ["true", "false", "true"],
        Kind::Choice([first, .., last]) => [last, first, last],
        Kind::Duration(..) => ["11s", "12s", "13s"],
        Kind::Count(..) | Kind::CountOrAuto(..) => ["101", "102", "103"],
        Kind::Bytes(_, max) if max > 5 << 20 => ["3MiB", "4MiB", "5MiB"],
        Kind::Bytes(..) => ["513KiB", "514KiB", "515KiB"],
        Kind::Fraction => ["0.1", "0.2", "0.3"],
        Kind::LogFilter => ["debug", "warn", "error"],
        Kind::Choice(_) => panic!("a choice needs two words"),
    }
}

fn text(effective: &Effective, key: Key) -> Vec<&str> {
    effective.items(key).iter().map(|item| item.text.as_str()).collect()
}

#[test]
fn precedence_is_flag_then_environment_then_file_then_default() {
    for setting @ Setting { key, name, .. } in SETTINGS {
        let [in_file, in_env, in_flag] = samples(setting.kind);
        let file = file(&format!("# first\n{name}: {in_file}\n"));
        let path = file.path().display().to_string();
        let config = vec!["--config".to_owned(), path.clone()];
        let flags = [config.clone(), vec![format!("--{name}={in_flag}")]].concat();
        let variable = setting.variable();
        let environment = variables(&[(&variable, in_env)]);

        for (flags, environment, value, origin) in [
            (vec![], vec![], None, "default".to_owned()),
            (config.clone(), vec![], Some(in_file), format!("{path}:2")),
            (config, environment.clone(), Some(in_env), format!("env {variable}")),
            (flags.clone(), environment, Some(in_flag), format!("flag --{name}")),
            (flags, vec![], Some(in_flag), format!("flag --{name}")),
        ] {
            let mut errors = Diagnostics::default();
            let effective = effective(&args(&flags), environment, &mut errors).unwrap();
            assert!(errors.is_empty(), "{errors}");
            let default =
                if let DefaultValue::Value(text) = setting.default { vec![text] } else { vec![] };
            assert_eq!(
                text(&effective, *key),
                value.map_or(default, |value| vec![value]),
                "{name} {origin}"
            );
            assert_eq!(effective.origin(*key).short(), origin, "{name}");
        }
    }
}

#[test]
fn every_setting_reaches_the_configuration() {
    let base = format!("{BASE}cert: p.crt\nkey: p.key\naudit-file: audit.jsonl\n");
    let before = format!("{:?}", with(&[], &base).unwrap().0);
    for setting in SETTINGS {
        let base = if setting.key == Key::InsecurePlaintextUpstream {
            BASE.replace("cacert: etcd-ca.crt", "endpoints: http://e:1")
        } else {
            base.clone()
        };
        let settings = [(setting.key, samples(setting.kind)[0])];
        // With plain text, what must differ is the one field.
        if setting.key == Key::InsecurePlaintextUpstream {
            assert!(with(&settings, &base).unwrap().0.upstream.insecure_plaintext);
            continue;
        }
        let (config, _) =
            with(&settings, &base).unwrap_or_else(|errors| panic!("{}: {errors}", setting.name));
        assert_ne!(format!("{config:?}"), before, "{} changes nothing", setting.name);
    }
}

#[test]
fn the_minimal_configuration_has_the_documented_defaults() {
    let (config, _) = with(&[], BASE).unwrap();
    assert_eq!((config.limits.max_requests, config.limits.max_request_bytes), (200_000, 2 << 20));
    assert_eq!(config.listen_addr.to_string(), "127.0.0.1:23790");
    assert_eq!(config.admin_addr.unwrap().to_string(), "127.0.0.1:23791");
    assert_eq!(config.upstream.endpoints[0].to_string(), "https://127.0.0.1:2379");
    assert_eq!(config.downstream.client_cas[0].name.as_ref(), "default");
    assert_eq!(config.drain_timeout.as_secs(), 30);
    assert!(config.workers >= 1 && config.mode.is_none() && config.upstream.identity.is_none());
}

#[test]
fn the_output_of_print_config_loads_as_the_same_configuration() {
    let text = format!(
        "{BASE}{}",
        "endpoints: [a:1, 'https://b:2']\nclient-crl-file: ['a, b.crl']\nadvertise-client-url: {m-1.x: 'https://p:1', m2: 'p2:2'}\n\
         log-filter: \"info,h2=warn\"\naudit-file: \"a # b: \\u0001 c\"\nmode: shadow\n"
    );
    let (config, effective) = with(
        &[(Key::TrustedCaFile, "calico=/c.crt,kubernetes=./k=8.crt"), (Key::Pin, "false")],
        &text,
    )
    .unwrap();
    let shown = effective.to_string();
    assert!(shown.contains("mode: shadow") && shown.contains(".yaml:11\n"), "{shown}");
    assert!(
        shown.contains(
            "# env ETCD_WARDEN_TRUSTED_CA_FILE\n  calico: /c.crt\n  kubernetes: \"./k=8.crt\"\n"
        ),
        "{shown}"
    );
    assert!(
        shown.contains("# default\n") && shown.contains("# lease-key-file: not set: "),
        "{shown}"
    );
    let (again, _) = with(&[], &shown).unwrap();
    assert_eq!(format!("{config:?}"), format!("{again:?}"));
}

#[test]
fn a_flag_can_override_a_true_in_the_file() {
    let file = file(&format!("{BASE}pin: true\n"));
    let config = ["--config".to_owned(), file.path().display().to_string()];
    let pin = |flags: &[&str]| {
        let flags: Vec<String> =
            config.iter().cloned().chain(flags.iter().map(ToString::to_string)).collect();
        load(&args(&flags), vec![]).unwrap().0.upstream.pin
    };
    assert!(pin(&[]) && pin(&["--pin"]) && !pin(&["--pin=false"]));
}

#[test]
fn the_flag_for_the_file_takes_precedence_over_the_variable() {
    let (one, two) = (file(BASE), file(&BASE.replace("policy.yaml", "other.yaml")));
    let environment = variables(&[("ETCD_WARDEN_CONFIG", one.path().to_str().unwrap())]);
    assert_eq!(
        load(&args(&[]), environment.clone()).unwrap().0.policy,
        PathBuf::from("policy.yaml")
    );
    let flags = ["--config".to_owned(), two.path().display().to_string()];
    assert_eq!(load(&args(&flags), environment).unwrap().0.policy, PathBuf::from("other.yaml"));
}

#[test]
fn an_empty_name_of_the_file_is_an_error() {
    let found = load(&args(&[]), variables(&[("ETCD_WARDEN_CONFIG", "")])).unwrap_err();
    assert_eq!(
        found.to_string(),
        "error: the value is empty: remove it to use the default\n  --> ETCD_WARDEN_CONFIG\n"
    );
}

#[test]
fn lists_are_separated_by_commas_and_flags_repeat() {
    let file = file(BASE);
    let flags = [
        "--config".to_owned(),
        file.path().display().to_string(),
        "--endpoints=a:1, b:2".into(),
        "--endpoints".into(),
        "c:3".into(),
    ];
    let endpoints = load(&args(&flags), vec![]).unwrap().0.upstream.endpoints;
    assert_eq!(
        endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["https://a:1", "https://b:2", "https://c:3"]
    );
}

#[test]
fn all_missing_settings_are_reported_together() {
    let found = load(&args(&[]), vec![]).unwrap_err();
    let missing: Vec<_> =
        found.iter().map(|error| error.message.split('`').nth(1).unwrap()).collect();
    assert_eq!(missing, ["cert-file", "key-file", "trusted-ca-file", "cacert", "policy"]);
    assert!(found.iter().all(|error| error.origin.is_none()));
}

#[test]
fn the_errors_of_all_sources_are_reported_together() {
    let file = file(&format!("{BASE}listen-addr: here\nfrob: 1\nmax-connections: 0\n"));
    let flags = ["--config".to_owned(), file.path().display().to_string(), "--workers=many".into()];
    let found = load(
        &args(&flags),
        variables(&[("ETCD_WARDEN_MODE", "sahdow"), ("ETCD_WARDEN_POLICEY", "x")]),
    )
    .unwrap_err()
    .to_string();
    for (message, origin) in [
        ("`here` is not `IP:PORT`", ":6:14\n"),
        ("unknown setting `frob`", ":7:1\n"),
        ("`0` is not a number from 1 to 1000000", ":8:18\n"),
        ("`many` is not a number from 1 to 1024, or `auto`", "--workers\n"),
        ("`sahdow` is none of `shadow`, `enforce`", "ETCD_WARDEN_MODE\n"),
        ("unknown environment variable", "ETCD_WARDEN_POLICEY\n"),
    ] {
        let one = found.split("error: ").find(|error| error.starts_with(message));
        assert!(one.is_some_and(|error| error.contains(origin)), "{message}\n---\n{found}");
    }
    assert!(found.contains("did you mean `ETCD_WARDEN_POLICY`?"), "{found}");
}

#[test]
fn an_invalid_setting_is_not_also_reported_as_missing() {
    let found = with(&[], &BASE.replace("policy.yaml", "~")).unwrap_err();
    assert_eq!(found.len(), 1, "{found}");
    assert!(found.to_string().starts_with("error: the value is empty"), "{found}");
    assert!(found.to_string().contains(":5:9\n"), "{found}");
}

#[test]
fn unsafe_combinations_are_refused() {
    use Key::{
        AdminAddr, Cert, Endpoints, InsecurePlaintextUpstream, ListenAddr, MaxHeldBytes,
        MaxRequestBytes, Pin, TrustedCaFile,
    };
    for (settings, sentence) in [
        (
            vec![(Endpoints, "http://a:1")],
            "`http://a:1` is plain text: write `https://`, or set `insecure-plaintext-upstream`",
        ),
        (
            vec![(Endpoints, "https://a:1,http://b:2"), (InsecurePlaintextUpstream, "true")],
            "`http://b:2` is plain text and others are not",
        ),
        (
            vec![(Endpoints, "http://a:1"), (InsecurePlaintextUpstream, "true")],
            "`cacert` has no effect on plain text endpoints",
        ),
        (vec![(InsecurePlaintextUpstream, "true")], "is set, but no endpoint is `http://`"),
        (vec![(Endpoints, "a:1,A:1")], "`https://a:1` appears twice"),
        (
            vec![(Endpoints, "a:1,b:1"), (Pin, "true")],
            "`pin` needs one endpoint, and `endpoints` has 2",
        ),
        (vec![(Cert, "p.crt")], "`cert` needs `key`"),
        (vec![(Key::Key, "p.key")], "`key` needs `cert`"),
        (vec![(MaxHeldBytes, "1MiB")], "is below `max-request-bytes`"),
        (vec![(MaxRequestBytes, "65MiB")], "is below `max-request-bytes`"),
        (
            vec![(AdminAddr, "10.0.0.1:1"), (ListenAddr, "10.0.0.1:1")],
            "is also the address of `listen-addr`",
        ),
        (
            vec![(Key::AuditAllowed, "all")],
            "`audit-allowed` needs an output: set `audit-file` or `audit-stdout`",
        ),
        (vec![(TrustedCaFile, "a.crt,b.crt")], "several files need names"),
        (vec![(TrustedCaFile, "a=a.crt,b.crt")], "several files need names"),
        (vec![(TrustedCaFile, "a=a.crt,a=b.crt")], "the name `a` appears twice"),
        (vec![(TrustedCaFile, "A B=a.crt")], "`A B` is not a valid name of a CA"),
        (
            vec![(Key::AdvertiseClientUrl, "http://p:1")],
            "is plain text, and the gateway accepts TLS only",
        ),
    ] {
        let found = errors(&settings);
        assert!(found.len() == 1 && found[0].contains(sentence), "{settings:?}: {found:?}");
    }
}

#[test]
fn the_example_configuration_loads() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config.example.yaml");
    let (config, _) = load(&args(&["--config".into(), example.into()]), vec![])
        .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.upstream.endpoints.len(), 3);
    let text = std::fs::read_to_string(example).unwrap();
    for setting in SETTINGS.iter().filter(|setting| setting.shape != Shape::Named) {
        assert!(
            text.contains(&format!("{}:", setting.name)),
            "the example does not show `{}`",
            setting.name
        );
    }
}

#[test]
fn the_systemd_unit_has_valid_flags_and_waits_for_the_drain() {
    let unit = include_str!("../../../../deploy/systemd/etcd-warden.service");
    let value = |name: &str| {
        unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap()
    };
    let (program, flags) = value("ExecStart").split_once(" serve ").unwrap();
    assert_eq!(program, "/usr/bin/etcd-warden");
    let flags: Vec<String> = flags.split(' ').map(str::to_owned).collect();
    assert_eq!(args(&flags).config, Some(PathBuf::from("/etc/etcd-warden/config.yaml")));
    let stop = humantime::parse_duration(value("TimeoutStopSec")).unwrap();
    assert!(stop > with(&[], BASE).unwrap().0.drain_timeout);
    assert_eq!((value("Type"), value("ExecReload")), ("notify", "/bin/kill -HUP $MAINPID"));
}
