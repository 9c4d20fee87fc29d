use etcd_warden_testbed::pki::{Authority, Leaf, write_private};

use super::*;

fn authority() -> Authority {
    Authority::new("test").unwrap()
}

fn seen(folder: &Path) -> Inventory {
    scan(folder).unwrap_or_else(|errors| panic!("{errors}"))
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
    let wrong = KeyState::Wrong("the key belongs to another certificate".to_owned());
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
fn other_files_are_reported_and_do_not_stop_the_scan() {
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
    let inventory = seen(at);
    let names: Vec<String> = inventory
        .others
        .iter()
        .map(|other| other.file.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["0.der", "a.txt", "cut.crt", "empty", "lone.key", "odd.yaml"]);
    assert_eq!(inventory.certificates.len(), 1);
    assert!(scan(&at.join("nowhere")).is_err());
}

#[test]
fn a_ca_certificate_is_listed_once() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority();
    for node in ["n1", "n2"] {
        let at = folder.path().join(node);
        fs::create_dir(&at).unwrap();
        write_private(&at, "etcd-ca", &authority.pem()).unwrap();
        write_private(&at, "etcd-cert", &authority.issue(&Leaf::client(node)).unwrap().certificate)
            .unwrap();
    }
    let inventory = seen(folder.path());
    assert_eq!(inventory.certificates.len(), 3);
    assert_eq!(
        (inventory.certificates[0].key.clone(), inventory.certificates[0].copies),
        (KeyState::OfCa, 1)
    );
    // A CA certificate as `etcd-cert` is listed as a client's, so that the error is reported.
    write_private(&folder.path().join("n1"), "etcd-cert", &authority.pem()).unwrap();
    assert!(
        seen(folder.path())
            .certificates
            .iter()
            .any(|found| found.key == KeyState::Elsewhere && found.file.ends_with("n1/etcd-cert"))
    );
}

/// The expiry of these is unknown. A manifest with one invalid document may still have Secrets.
#[test]
fn a_file_that_should_hold_a_certificate_is_marked() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let issued = authority().client("a").unwrap();
    let secret =
        |key: &str| format!("---\nkind: Secret\nmetadata: {{name: x}}\ndata: {{{key}: \"%%%\"}}\n");
    let suspect = [
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
    for (name, content) in suspect.iter().chain(&right) {
        write_private(at, name, content).unwrap();
    }
    let info = seen(at)
        .others
        .into_iter()
        .map(|other| (other.file.file_name().unwrap().to_str().unwrap().to_owned(), other.suspect));
    let expected = suspect
        .iter()
        .map(|(name, _)| ((*name).to_owned(), true))
        .chain(right.iter().map(|(name, _)| ((*name).to_owned(), false)));
    assert_eq!(info.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

/// Read as PEM, it would be one pair, and replaced as such.
#[test]
fn a_manifest_that_is_not_utf_8_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let issued = authority().client("a").unwrap();
    let text = ["# caf\u{e9}\n", &issued.certificate, &issued.key].concat();
    let latin_1: Vec<u8> =
        text.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect();
    fs::write(folder.path().join("secrets.yaml"), latin_1).unwrap();
    let inventory = seen(folder.path());
    assert!(
        inventory.certificates.is_empty()
            && inventory.others[0].suspect
            && inventory.others[0].what.contains("not UTF-8"),
        "{inventory:?}"
    );
}
