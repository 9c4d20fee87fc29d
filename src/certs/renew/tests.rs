use std::time::Duration;

use super::*;
use crate::certs::ca::CaFiles;
use crate::certs::found::look;
use crate::pki::{Authority, Leaf, Usage, Validity, write_private};

const HOUR: Duration = Duration::from_secs(3600);

/// An authority of [`crate::pki`] with its key in a file, which it never gives away itself.
struct Own {
    folder: tempfile::TempDir,
    ca: Ca,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

fn own() -> Own {
    let folder = tempfile::tempdir().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + 1000 * HOUR).into();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = write_private(folder.path(), "ca.pem", &params.self_signed(&key).unwrap().pem()).unwrap();
    let files = CaFiles { certificate, key: write_private(folder.path(), "ca-key.txt", &key.serialize_pem()).unwrap() };
    let ca = Ca::load(&files, || panic!("no passphrase")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    Own { folder, ca, issuer: rcgen::Issuer::new(params, key) }
}

impl Own {
    /// Writes a client's set that lasts for so long, with these usages.
    fn set(&self, name: &str, lasts: Duration) -> PathBuf {
        let at = self.folder.path().join("sets").join(name);
        std::fs::create_dir_all(&at).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![format!("{name}.example.org")]).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth, rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + lasts).into();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        write_private(&at, "etcd-cert", &certificate).unwrap();
        write_private(&at, "etcd-key", &key.serialize_pem()).unwrap();
        at
    }

    fn renew(&self, terms: &Terms) -> Outcome {
        let sets = self.folder.path().join("sets");
        let sight = look(&sets).unwrap();
        renew(&self.ca, &sight, &sets, terms, SystemTime::now(), &|_| ()).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }
}

fn terms() -> Terms {
    Terms { before: None, lifetime: None, expired: false, keep_key: false, key_type: None, old_ca: None, server_ca: None }
}

#[test]
fn what_has_a_third_of_its_life_left_is_due() {
    let own = own();
    own.set("a", HOUR / 4);
    own.set("b", HOUR);
    let outcome = own.renew(&terms());
    assert!(matches!(outcome.fates[..], [Fate::Renewed(_), Fate::NotYet(_)]), "{:?}", outcome.fates);
    let names: Vec<_> = outcome.files.iter().map(|file| file.path.clone()).collect();
    assert_eq!(names, [PathBuf::from("a/etcd-key"), PathBuf::from("a/etcd-cert")], "the key first, and nothing else");
    let outcome = own.renew(&Terms { before: Some(2 * HOUR), ..terms() });
    assert!(matches!(outcome.fates[..], [Fate::Renewed(_), Fate::Renewed(_)]));
}

#[test]
fn names_usages_and_lifetime_stay() {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let own = own();
    own.set("a", HOUR / 4);
    let old = std::fs::read(own.folder.path().join("sets/a/etcd-cert")).unwrap();
    let outcome = own.renew(&terms());
    let new = outcome.files.iter().find(|file| file.path.ends_with("etcd-cert")).unwrap();
    let [old, new] = [old, new.content.as_bytes().to_vec()].map(|bytes| pem::parse(bytes).unwrap().into_contents());
    let [old, new] = [&old, &new].map(|der| X509Certificate::from_der(der).unwrap().1);
    assert_eq!(old.subject().as_raw(), new.subject().as_raw());
    assert_eq!(old.issuer().as_raw(), new.issuer().as_raw());
    let san =
        |certificate: &X509Certificate<'_>| certificate.subject_alternative_name().unwrap().unwrap().value.to_owned().general_names.len();
    assert_eq!(san(&old), san(&new));
    assert_eq!(old.extended_key_usage().unwrap().unwrap().value, new.extended_key_usage().unwrap().unwrap().value);
    assert_ne!(old.raw_serial(), new.raw_serial());
    assert_ne!(old.public_key().raw, new.public_key().raw);
    let length =
        |certificate: &X509Certificate<'_>| certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
    assert!((length(&old) - length(&new)).abs() <= 1);
}

#[test]
fn a_kept_key_leaves_its_file_alone() {
    let own = own();
    own.set("a", HOUR / 4);
    let outcome = own.renew(&Terms { keep_key: true, ..terms() });
    let names: Vec<_> = outcome.files.iter().map(|file| file.path.clone()).collect();
    assert_eq!(names, [PathBuf::from("a/etcd-cert")]);
}

/// Whoever can put a file into the folder must not get a name of his choice certified.
#[test]
fn what_another_ca_has_signed_is_left() {
    let own = own();
    let at = own.set("a", HOUR / 4);
    let foreign = Authority::new("rcgen self signed cert").unwrap();
    let leaf = Leaf::client("kube-apiserver").validity(Validity::For(HOUR / 4));
    let planted = foreign.issue(&leaf).unwrap();
    write_private(&at, "etcd-cert", &planted.certificate).unwrap();
    write_private(&at, "etcd-key", &planted.key).unwrap();
    let outcome = own.renew(&Terms { before: Some(1000 * HOUR), ..terms() });
    assert!(matches!(&outcome.fates[..], [Fate::Left(why)] if why.contains("a key that is not this CA's")), "{:?}", outcome.fates);
    let old_ca = write_private(own.folder.path(), "old.pem", &foreign.pem()).unwrap();
    let moved = own.renew(&Terms { old_ca: Some(OldCa::load(&old_ca).unwrap()), ..terms() });
    assert!(matches!(moved.fates[..], [Fate::Renewed(_)]), "{:?}", moved.fates);
    // A server's certificate is not this command's business.
    let server = foreign.issue(&leaf.usage(Usage::Server)).unwrap();
    write_private(&at, "etcd-cert", &server.certificate).unwrap();
    write_private(&at, "etcd-key", &server.key).unwrap();
    let outcome = own.renew(&Terms { old_ca: Some(OldCa::load(&old_ca).unwrap()), ..terms() });
    assert!(matches!(outcome.fates[..], [Fate::Left(_)]), "{:?}", outcome.fates);
}

/// A certificate is public: with junk, or a key of his own, beside a copy of it nobody gets a valid key for its name.
#[test]
fn a_new_key_is_given_for_the_old_one_only() {
    let own = own();
    let at = own.set("a", HOUR / 4);
    let (another, p521) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap());
    for junk in ["junk".to_owned(), String::new(), another.serialize_pem(), p521.serialize_pem()] {
        write_private(&at, "etcd-key", &junk).unwrap();
        for keep_key in [false, true] {
            let outcome = own.renew(&Terms { keep_key, before: Some(200 * HOUR), ..terms() });
            let failed = matches!(&outcome.fates[..], [Fate::Failed(why)] if why.contains("`certs issue --force` makes the pair anew"));
            assert!(failed && outcome.files.is_empty(), "{junk}: {:?}", outcome.fates);
        }
    }
    // Also while the pair would not be due: it is of no use to anybody.
    write_private(&own.set("a", 100 * HOUR), "etcd-key", "junk").unwrap();
    assert!(matches!(own.renew(&terms()).fates[..], [Fate::Failed(_)]));
}

#[test]
fn what_has_expired_is_renewed_only_when_asked_to() {
    let own = own();
    own.set("a", Duration::ZERO);
    let renewed = |expired| own.renew(&Terms { expired, ..terms() }).fates;
    assert!(matches!(&renewed(false)[..], [Fate::Failed(why)] if why.contains("it expired on") && why.contains("`--expired`")));
    assert!(matches!(renewed(true)[..], [Fate::Renewed(_)]));
}

#[test]
fn what_cannot_be_renewed_says_why() {
    let own = own();
    let at = own.set("a", HOUR / 4);
    std::fs::remove_file(at.join("etcd-key")).unwrap();
    own.set("z", 1000 * HOUR);
    let outcome = own.renew(&Terms { before: Some(2000 * HOUR), lifetime: Some(5000 * HOUR), ..terms() });
    match &outcome.fates[..] {
        [Fate::Failed(no_key), Fate::Failed(no_time)] => {
            assert!(no_key.contains("its key is not here") && no_time.contains("renew the CA"), "{no_key}; {no_time}");
        }
        other => panic!("{other:?}"),
    }
    assert!(outcome.files.is_empty());
}
