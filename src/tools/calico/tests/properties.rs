//! Manifests with random changes, written in random styles: the result has the expected meaning, and
//! no other part of the text changes.

use proptest::prelude::*;

use super::super::value::{Value, parse};
use super::emit::{Rng, Style, text};
use super::*;

/// The documents of a real manifest.
fn documents(version: usize) -> Vec<Value> {
    let Value::List(documents) = Value::of(&parse(MANIFESTS[version].1).unwrap()) else {
        unreachable!()
    };
    documents
}

fn get<'v>(value: &'v mut Value, key: &str) -> &'v mut Value {
    let Value::Map(entries) = value else { panic!("{key}: no mapping") };
    &mut entries.iter_mut().find(|(name, _)| name == key).unwrap_or_else(|| panic!("no {key}")).1
}

/// True if the value under a key is this text.
fn is(value: &Value, key: &str, text: &str) -> bool {
    let Value::Map(entries) = value else { return false };
    entries.iter().any(|(name, value)| name == key && *value == Value::text(text))
}

fn along<'v>(value: &'v mut Value, keys: &[&str]) -> &'v mut Value {
    keys.iter().fold(value, |value, key| get(value, key))
}

fn list(value: &mut Value) -> &mut Vec<Value> {
    let Value::List(items) = value else { panic!("no list") };
    items
}

fn entries(value: &mut Value) -> &mut Vec<(String, Value)> {
    let Value::Map(entries) = value else { panic!("no mapping") };
    entries
}

/// `calico-config`: the ConfigMap that has data.
fn config(documents: &mut [Value]) -> &mut Value {
    let has_data = |document: &&mut Value| matches!(&**document, Value::Map(entries) if entries.iter().any(|(key, _)| key == "data"));
    documents
        .iter_mut()
        .filter(has_data)
        .find(|document| is(document, "kind", "ConfigMap"))
        .unwrap()
}

fn of_kind<'v>(documents: &'v mut [Value], kind: &str) -> &'v mut Value {
    documents.iter_mut().find(|document| is(document, "kind", kind)).unwrap()
}

fn named_in<'v>(items: &'v mut Value, key: &str, name: &str) -> &'v mut Value {
    list(items).iter_mut().find(|item| is(item, key, name)).unwrap_or_else(|| panic!("no {name}"))
}

/// Shuffles the entries of mappings, except in the text of ConfigMaps.
fn shuffle(value: &mut Value, rng: &mut Rng) {
    match value {
        Value::Map(entries) => {
            for at in (1..entries.len()).rev() {
                entries.swap(at, rng.below(at + 1));
            }
            entries.iter_mut().for_each(|(_, value)| shuffle(value, rng));
        }
        Value::List(items) => items.iter_mut().for_each(|item| shuffle(item, rng)),
        Value::Text(_) | Value::Other(_) => {}
    }
}

/// Adds containers, variables, volumes and objects, and renames the volume.
fn local_changes(documents: &mut Vec<Value>, volume: &str, rng: &mut Rng) {
    let sidecar = || {
        Value::map([
            ("name", Value::text("sidecar")),
            ("image", Value::text("x:1")),
            (
                "volumeMounts",
                Value::List(vec![Value::map([
                    ("name", Value::text("theirs")),
                    ("mountPath", Value::text("/theirs")),
                ])]),
            ),
        ])
    };
    let variable = || Value::map([("name", Value::text("THEIRS")), ("value", Value::text("a b"))]);
    let more =
        || Value::map([("name", Value::text("theirs")), ("emptyDir", Value::Map(Vec::new()))]);
    for (kind, lists) in
        [("DaemonSet", vec!["initContainers", "containers"]), ("Deployment", vec!["containers"])]
    {
        let pod = along(of_kind(documents, kind), &["spec", "template", "spec"]);
        for name in lists {
            for container in list(get(pod, name)) {
                if let Value::Map(entries) = container
                    && let Some((_, env)) = entries.iter_mut().find(|(key, _)| key == "env")
                {
                    let env = list(env);
                    let at = rng.below(env.len() + 1);
                    env.insert(at, variable());
                }
                if !is(container, "name", "flexvol-driver")
                    && let Value::Map(entries) = container
                    && let Some((_, mounts)) =
                        entries.iter_mut().find(|(key, _)| key == "volumeMounts")
                {
                    for mount in
                        list(mounts).iter_mut().filter(|mount| is(mount, "name", "etcd-certs"))
                    {
                        *get(mount, "name") = Value::text(volume);
                    }
                }
            }
            let containers = list(get(pod, name));
            let at = rng.below(containers.len() + 1);
            let mut one = sidecar();
            *get(&mut one, "name") = Value::text(format!("sidecar-{name}").to_lowercase());
            containers.insert(at, one);
        }
        let volumes = get(pod, "volumes");
        *get(named_in(volumes, "name", "etcd-certs"), "name") = Value::text(volume);
        let volumes = list(volumes);
        let at = rng.below(volumes.len() + 1);
        volumes.insert(at, more());
    }
    let at = rng.below(documents.len() + 1);
    let metadata = Value::map([("name", Value::text("theirs"))]);
    documents.insert(
        at,
        Value::map([
            ("apiVersion", Value::text("v1")),
            ("kind", Value::text("ConfigMap")),
            ("metadata", metadata),
        ]),
    );
}

const FILES: [&str; 3] = ["ca", "cert", "key"];

/// Parts that an operator without TLS removes from the manifest.
#[derive(Debug, Default)]
struct Removed {
    /// Keys of `calico-config`.
    keys: Vec<String>,
    /// Variables, with their container.
    variables: Vec<(&'static str, &'static str, String)>,
    /// True for mount and volume of kube-controllers.
    volume: bool,
}

fn remove(documents: &mut [Value], rng: &mut Rng) -> Removed {
    let mut removed = Removed::default();
    for key in ["etcd_endpoints", "etcd_ca", "etcd_cert", "etcd_key"] {
        if rng.once_in(2) {
            entries(get(config(documents), "data")).retain(|(name, _)| name != key);
            removed.keys.push(key.to_owned());
        }
    }
    for (kind, container) in
        [("DaemonSet", "calico-node"), ("Deployment", "calico-kube-controllers")]
    {
        let pod = along(of_kind(documents, kind), &["spec", "template", "spec"]);
        let env = list(get(named_in(get(pod, "containers"), "name", container), "env"));
        for file in FILES {
            if rng.once_in(3) {
                let variable = variable(file);
                env.retain(|one| !is(one, "name", &variable));
                removed.variables.push((kind, container, variable));
            }
        }
    }
    if rng.once_in(3) {
        let pod = along(of_kind(documents, "Deployment"), &["spec", "template", "spec"]);
        entries(named_in(get(pod, "containers"), "name", "calico-kube-controllers"))
            .retain(|(key, _)| key != "volumeMounts");
        entries(pod).retain(|(key, _)| key != "volumes");
        removed.volume = true;
    }
    removed
}

fn variable(file: &str) -> String {
    if file == "ca" {
        "ETCD_CA_CERT_FILE".to_owned()
    } else {
        format!("ETCD_{}_FILE", file.to_uppercase())
    }
}

fn path(file: &str) -> Value {
    Value::text(format!("/calico-secrets/etcd-{file}"))
}

/// Adds an entry after another and the entries that were added before.
fn put(value: &mut Value, behind: &str, key: &str, new: Value) {
    let entries = entries(value);
    let at = entries.iter().position(|(name, _)| name == behind).unwrap();
    entries.insert(at + 1, (key.to_owned(), new));
}

/// Applies the expected changes to the documents.
fn apply_expected(documents: &mut [Value], volume: &str, removed: &Removed) {
    let is_gone = |kind: &str, variable: &str| {
        removed.variables.iter().any(|(known, _, gone)| *known == kind && gone == variable)
    };
    let data = get(config(documents), "data");
    let mut set = |key: String, value: Value| {
        let entries = entries(data);
        match entries.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => entries.push((key, value)),
        }
    };
    set("etcd_endpoints".to_owned(), Value::text(PROXIES));
    // The first component that needs a key adds it.
    for kind in ["DaemonSet", "Deployment"] {
        for file in FILES.into_iter().filter(|file| !is_gone(kind, &variable(file))) {
            set(format!("etcd_{file}"), path(file));
        }
    }
    for (kind, container, variable) in &removed.variables {
        let file = FILES.into_iter().find(|file| self::variable(file) == *variable).unwrap();
        let pod = along(of_kind(documents, kind), &["spec", "template", "spec"]);
        let env = get(named_in(get(pod, "containers"), "name", container), "env");
        list(env).push(Value::map([("name", Value::text(variable)), ("value", path(file))]));
    }
    let pod = along(of_kind(documents, "Deployment"), &["spec", "template", "spec"]);
    if removed.volume {
        let mount = Value::map([
            ("mountPath", Value::text("/calico-secrets")),
            ("name", Value::text("etcd-certs")),
        ]);
        put(
            named_in(get(pod, "containers"), "name", "calico-kube-controllers"),
            "name",
            "volumeMounts",
            Value::List(vec![mount]),
        );
        let secret = [
            ("secretName", Value::text("calico-etcd-kube-controllers")),
            ("defaultMode", Value::Other("0440".to_owned())),
        ];
        let new = Value::map([("name", Value::text("etcd-certs")), ("secret", Value::map(secret))]);
        put(pod, "containers", "volumes", Value::List(vec![new]));
    } else {
        *along(named_in(get(pod, "volumes"), "name", volume), &["secret", "secretName"]) =
            Value::text("calico-etcd-kube-controllers");
    }
    let pod = along(of_kind(documents, "DaemonSet"), &["spec", "template", "spec"]);
    let another = format!("{volume}-cni");
    let install = named_in(get(pod, "initContainers"), "name", "install-cni");
    *get(named_in(get(install, "volumeMounts"), "mountPath", "/calico-secrets"), "name") =
        Value::text(&another);
    let volumes = list(get(pod, "volumes"));
    let at = volumes.iter().position(|one| is(one, "name", volume)).unwrap();
    *along(&mut volumes[at], &["secret", "secretName"]) = Value::text("calico-etcd-node");
    let secret = Value::map([
        ("secretName", Value::text("calico-etcd-cni")),
        ("defaultMode", Value::Other("0400".to_owned())),
    ]);
    volumes.insert(at + 1, Value::map([("name", Value::text(another)), ("secret", secret)]));
}

/// Each removed line has a replacement with the same beginning and end.
fn only_values_change(old: &str, new: &str, removed: &Removed) -> Result<(), TestCaseError> {
    let lines = changes(old, new);
    let went: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix('-')).collect();
    let came: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix('+')).collect();
    let back =
        removed.keys.len() + 2 * removed.variables.len() + if removed.volume { 8 } else { 0 };
    prop_assert!(went.len() <= 7 && came.len() <= went.len() + 4 + back, "{lines:#?}");
    for line in went {
        let (key, _) = line.split_once(": ").unwrap_or((line.trim_end_matches(':'), ""));
        let comment = line.split_once(" # theirs").map_or("", |_| " # theirs: too");
        prop_assert!(
            came.iter().any(|other| other.starts_with(key) && other.ends_with(comment)),
            "{line}\n{lines:#?}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn local_changes_in_any_style_are_kept_and_the_rest_segmented(
        version in 0..MANIFESTS.len(), seed in 1u64.., indent in 2usize..5, flush in any::<bool>(), windows in any::<bool>(),
        comments in prop_oneof![Just(1_000_000usize), Just(12), Just(3)], quotes in prop_oneof![Just(1_000_000usize), Just(3)],
        flow in prop_oneof![3 => Just(1_000_000usize), 1 => Just(3)], volume in prop_oneof![Just("etcd-certs"), Just("tls")], changed in any::<bool>(), taken in any::<bool>(),
    ) {
        let mut rng = Rng(seed);
        let mut documents = documents(version);
        if changed {
            local_changes(&mut documents, volume, &mut rng);
        }
        let volume = if changed { volume } else { "etcd-certs" };
        let removed = if taken { remove(&mut documents, &mut rng) } else { Removed::default() };
        documents.iter_mut().for_each(|document| shuffle(document, &mut rng));
        let style = Style { indent, flush, newline: if windows { "\r\n" } else { "\n" }, comments, quotes, flow };
        let old = text(&documents, &style, &mut rng);
        let Value::List(read) = Value::of(&parse(&old).unwrap_or_else(|wrong| panic!("{wrong:?}\n{old}"))) else { unreachable!() };
        prop_assert_eq!(read.len(), documents.len());
        for (read, written) in read.iter().zip(&documents) {
            prop_assert_eq!(read, written, "the writer of this test");
        }
        match segment("FILE", &old, &options()) {
            Ok(done) => {
                apply_expected(&mut documents, volume, &removed);
                prop_assert_eq!(Value::of(&parse(&done.text).unwrap()), Value::List(documents), "{:?}", removed);
                only_values_change(&old, &done.text, &removed)?;
                prop_assert_eq!(&segment("FILE", &done.text, &options()).unwrap().text, &done.text);
            }
            // Only flow style prevents additions here.
            Err(errors) => prop_assert!(flow == 3 && errors.to_string().contains("in flow style"), "{}", errors),
        }
    }

    #[test]
    fn no_text_is_changed_into_what_was_not_meant(at in 0usize..24_000, cut in 0usize..40, put in "[ a-z:{}\\[\\]'\"#&*|>\n\t-]{0,8}", nodes in any::<bool>()) {
        let mut text = NEWEST.to_owned();
        let at = at.min(text.len());
        text.replace_range(at..(at + cut).min(text.len()), &put);
        let options = if nodes { per_node() } else { options() };
        // Any text is refused with a position, or the result is verified and does not change again.
        match segment("FILE", &text, &options) {
            Ok(done) => prop_assert_eq!(&segment("FILE", &done.text, &options).unwrap().text, &done.text),
            Err(errors) => prop_assert!(!errors.to_string().contains("bug in etcd-warden"), "{}", errors),
        }
    }
}
