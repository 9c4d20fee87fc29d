use etcd_warden_testbed::pki::{Authority, Leaf, write_private};

use super::*;

fn authority() -> Authority {
    Authority::new("test").unwrap()
}

fn seen(folder: &Path) -> Sight {
    look(folder).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[test]
fn each_certificate_is_found_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (authority, other) = (authority(), authority().client("b").unwrap());
    let one = authority.client("a").unwrap();
    one.write(at, "fits").unwrap();
    one.write(at, "wrong").unwrap();
    write_private(at, "wrong.key", &other.key).unwrap();
    write_private(at, "lone.pem", &one.certificate).unwrap();
    write_private(at, "both.pem", &format!("{}{}", one.certificate, one.key)).unwrap();
    write_private(at, "etcd-cert", &one.certificate).unwrap();
    write_private(at, "etcd-key", &one.key).unwrap();
    let keys: Vec<(String, KeyState)> = seen(at)
        .certificates
        .into_iter()
        .map(|found| (found.file.file_name().unwrap().to_str().unwrap().to_owned(), found.key))
        .collect();
    let wrong = KeyState::Wrong("the key is another certificate's".to_owned());
    let expected = [
        ("both.pem", KeyState::Fits(None)),
        ("etcd-cert", KeyState::Fits(None)),
        ("fits.crt", KeyState::Fits(None)),
        ("lone.pem", KeyState::Elsewhere),
        ("wrong.crt", wrong),
    ];
    assert_eq!(keys, expected.map(|(name, key)| (name.to_owned(), key)));
}

#[test]
fn what_is_no_certificate_is_said_and_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let issued = authority().client("a").unwrap();
    for (name, content) in [
        ("a.txt", "hello"),
        ("cut.crt", &issued.certificate[..300]),
        ("empty", ""),
        ("lone.key", &issued.key),
        ("odd.yaml", "a: [b"),
        (".hidden", "x"),
        ("z.crt", &issued.certificate),
    ] {
        write_private(at, name, content).unwrap();
    }
    fs::write(at.join("0.der"), [0x30, 0x82, 0, 0]).unwrap();
    let sight = seen(at);
    let names: Vec<String> = sight
        .others
        .iter()
        .map(|other| other.file.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["0.der", "a.txt", "cut.crt", "empty", "lone.key", "odd.yaml"]);
    assert_eq!(sight.certificates.len(), 1);
    assert!(look(&at.join("nowhere")).is_err());
}

#[test]
fn a_ca_stands_in_the_list_once() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority();
    for node in ["n1", "n2"] {
        let at = folder.path().join(node);
        fs::create_dir(&at).unwrap();
        write_private(&at, "etcd-ca", &authority.pem()).unwrap();
        write_private(&at, "etcd-cert", &authority.issue(&Leaf::client(node)).unwrap().certificate)
            .unwrap();
    }
    let sight = seen(folder.path());
    assert_eq!(sight.certificates.len(), 3);
    assert_eq!(
        (sight.certificates[0].key.clone(), sight.certificates[0].copies),
        (KeyState::OfCa, 1)
    );
    // A client that shows a CA's certificate is no CA here: it is a mistake that is to be told.
    write_private(&folder.path().join("n1"), "etcd-cert", &authority.pem()).unwrap();
    assert!(
        seen(folder.path())
            .certificates
            .iter()
            .any(|found| found.key == KeyState::Elsewhere && found.file.ends_with("n1/etcd-cert"))
    );
}

/// Of these nobody can tell when they end; a manifest with one bad document is not one without
/// Secrets.
#[test]
fn what_should_hold_a_certificate_and_does_not_is_told_from_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let issued = authority().client("a").unwrap();
    let secret =
        |key: &str| format!("---\nkind: Secret\nmetadata: {{name: x}}\ndata: {{{key}: \"%%%\"}}\n");
    let lost = [
        ("a-cut.crt", issued.certificate[..300].to_owned()),
        ("b-empty.pem", String::new()),
        ("c-key.crt", issued.key.clone()),
        ("d.yaml", format!("kind: ConfigMap\n---\nkind: Secret\ndata: [{}\n", "x")),
        ("e.yml", secret("tls.crt")),
        ("etcd-cert", "junk".to_owned()),
    ];
    let right = [
        ("f-key.pem", issued.key.clone()),
        ("g.yaml", "kind: Thing\nmetadata: {name: x}\ndata: {a: {b: c}}\n".to_owned()),
        (
            "h.json",
            "{\"kind\": \"NodeList\", \"items\": [{\"metadata\": {\"name\": \"n1\"}}]}".to_owned(),
        ),
        ("hosts.yaml", "- hosts: all\n".to_owned()),
        ("i.yaml", secret("password")),
        ("notes", "x".to_owned()),
    ];
    for (name, content) in lost.iter().chain(&right) {
        write_private(at, name, content).unwrap();
    }
    let told = seen(at)
        .others
        .into_iter()
        .map(|other| (other.file.file_name().unwrap().to_str().unwrap().to_owned(), other.lost));
    let expected = lost
        .iter()
        .map(|(name, _)| ((*name).to_owned(), true))
        .chain(right.iter().map(|(name, _)| ((*name).to_owned(), false)));
    assert_eq!(told.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

/// Read as PEM, it would be one pair, and replaced as such.
#[test]
fn a_manifest_that_is_not_utf_8_is_told_and_not_read_as_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let issued = authority().client("a").unwrap();
    let text = ["# caf\u{e9}\n", &issued.certificate, &issued.key].concat();
    let latin_1: Vec<u8> =
        text.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect();
    fs::write(folder.path().join("secrets.yaml"), latin_1).unwrap();
    let sight = seen(folder.path());
    assert!(
        sight.certificates.is_empty()
            && sight.others[0].lost
            && sight.others[0].what.contains("not UTF-8"),
        "{sight:?}"
    );
}
