use super::*;
use crate::pki::{Authority, Leaf, write_private};

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
    let keys: Vec<(String, KeyState)> =
        seen(at).certificates.into_iter().map(|found| (found.file.file_name().unwrap().to_str().unwrap().to_owned(), found.key)).collect();
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
    let names: Vec<String> = sight.others.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
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
        write_private(&at, "etcd-cert", &authority.issue(&Leaf::client(node)).unwrap().certificate).unwrap();
    }
    let sight = seen(folder.path());
    assert_eq!(sight.certificates.len(), 3);
    assert_eq!((sight.certificates[0].key.clone(), sight.certificates[0].copies), (KeyState::OfCa, 1));
    // A client that shows a CA's certificate is no CA here: it is a mistake that is to be told.
    write_private(&folder.path().join("n1"), "etcd-cert", &authority.pem()).unwrap();
    assert!(seen(folder.path()).certificates.iter().any(|found| found.key == KeyState::Elsewhere && found.file.ends_with("n1/etcd-cert")));
}
