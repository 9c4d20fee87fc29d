use std::time::Duration;

use etcd_warden_testbed::pki::{Authority, Leaf, Usage, Validity, write_private};

use super::*;
use crate::certs::ca::CaFiles;
use crate::certs::inventory::scan;
use std::path::PathBuf;

const HOUR: Duration = Duration::from_secs(3600);

/// A CA with its key in a file; an [`etcd_warden_testbed::pki::Authority`] does not reveal its key.
struct Own {
    folder: tempfile::TempDir,
    ca: Ca,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

fn own() -> Own {
    own_of(|_| ())
}

fn own_of(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Own {
    let folder = tempfile::tempdir().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + 1000 * HOUR).into();
    change(&mut params);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        write_private(folder.path(), "ca.pem", &params.self_signed(&key).unwrap().pem()).unwrap();
    let files = CaFiles {
        certificate,
        key: write_private(folder.path(), "ca-key.txt", &key.serialize_pem()).unwrap(),
    };
    let ca =
        Ca::load(&files, || panic!("no passphrase")).unwrap_or_else(|errors| panic!("{errors}"));
    Own { folder, ca, issuer: rcgen::Issuer::new(params, key) }
}

impl Own {
    /// Writes a client's files, with a certificate that is valid for `lasts`.
    fn set(&self, name: &str, lasts: Duration) -> PathBuf {
        let at = self.folder.path().join("sets").join(name);
        std::fs::create_dir_all(&at).unwrap();
        let (certificate, key) = self.pair(name, lasts);
        write_private(&at, "etcd-cert", &certificate).unwrap();
        write_private(&at, "etcd-key", &key).unwrap();
        at
    }

    /// Certificate and key, PEM.
    fn pair(&self, name: &str, lasts: Duration) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params =
            rcgen::CertificateParams::new(vec![format!("{name}.example.org")]).unwrap();
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + lasts).into();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        (certificate, key.serialize_pem())
    }

    /// Writes a manifest of Secrets, given as namespace, name and key pair.
    fn manifest(&self, secrets: &[(&str, &str, &(String, String))]) {
        let indented =
            |text: &str| text.lines().fold(String::new(), |all, line| all + "    " + line + "\n");
        let text: String = secrets
            .iter()
            .map(|(namespace, name, (certificate, key))| {
                let (certificate, key) = (indented(certificate), indented(key));
                format!(
                    "---\nkind: Secret\nmetadata:\n  name: {name}\n  namespace: {namespace}\nstringData:\n  etcd-cert: |\n{certificate}  etcd-key: |\n{key}"
                )
            })
            .collect();
        std::fs::create_dir_all(self.folder.path().join("sets")).unwrap();
        write_private(&self.folder.path().join("sets"), "secrets.yaml", &text).unwrap();
    }

    fn renew(&self, options: &RenewOptions) -> Outcome {
        let sets = self.folder.path().join("sets");
        let inventory = scan(&sets).unwrap();
        renew(&self.ca, &inventory, &sets, options, SystemTime::now(), &|_| ())
    }
}

fn options() -> RenewOptions {
    RenewOptions {
        before: None,
        lifetime: None,
        expired: false,
        keep_key: false,
        key_type: None,
        old_ca: None,
        server_ca: None,
    }
}

#[test]
fn a_certificate_is_due_with_a_third_of_its_life_left() {
    let own = own();
    own.set("a", HOUR / 4);
    own.set("b", HOUR);
    let outcome = own.renew(&options());
    assert!(
        matches!(outcome.results[..], [RenewalResult::Renewed(_), RenewalResult::NotDue(_)]),
        "{:?}",
        outcome.results
    );
    let names: Vec<_> = outcome.files.iter().map(|file| file.path.clone()).collect();
    assert_eq!(
        names,
        [PathBuf::from("a/etcd-key"), PathBuf::from("a/etcd-cert")],
        "the key first, and nothing else"
    );
    let outcome = own.renew(&RenewOptions { before: Some(2 * HOUR), ..options() });
    assert!(matches!(outcome.results[..], [RenewalResult::Renewed(_), RenewalResult::Renewed(_)]));
}

#[test]
fn names_usages_and_lifetime_are_kept() {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let own = own();
    own.set("a", HOUR / 4);
    let old = std::fs::read(own.folder.path().join("sets/a/etcd-cert")).unwrap();
    let outcome = own.renew(&options());
    let new = outcome.files.iter().find(|file| file.path.ends_with("etcd-cert")).unwrap();
    let [old, new] = [old, new.content.as_bytes().to_vec()]
        .map(|bytes| pem::parse(bytes).unwrap().into_contents());
    let [old, new] = [&old, &new].map(|der| X509Certificate::from_der(der).unwrap().1);
    assert_eq!(old.subject().as_raw(), new.subject().as_raw());
    assert_eq!(old.issuer().as_raw(), new.issuer().as_raw());
    let san = |certificate: &X509Certificate<'_>| {
        certificate
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .to_owned()
            .general_names
            .len()
    };
    assert_eq!(san(&old), san(&new));
    assert_eq!(
        old.extended_key_usage().unwrap().unwrap().value,
        new.extended_key_usage().unwrap().unwrap().value
    );
    assert_ne!(old.raw_serial(), new.raw_serial());
    assert_ne!(old.public_key().raw, new.public_key().raw);
    let length = |certificate: &X509Certificate<'_>| {
        certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp()
    };
    assert!((length(&old) - length(&new)).abs() <= 1);
}

#[test]
fn a_kept_key_is_not_rewritten() {
    let own = own();
    own.set("a", HOUR / 4);
    let outcome = own.renew(&RenewOptions { keep_key: true, ..options() });
    let names: Vec<_> = outcome.files.iter().map(|file| file.path.clone()).collect();
    assert_eq!(names, [PathBuf::from("a/etcd-cert")]);
}

/// Otherwise anyone who can write to the directory could have a name certified.
#[test]
fn a_certificate_of_another_ca_is_skipped() {
    let own = own();
    let at = own.set("a", HOUR / 4);
    let foreign = Authority::new("rcgen self signed cert").unwrap();
    let leaf = Leaf::client("kube-apiserver").validity(Validity::For(HOUR / 4));
    let planted = foreign.issue(&leaf).unwrap();
    write_private(&at, "etcd-cert", &planted.certificate).unwrap();
    write_private(&at, "etcd-key", &planted.key).unwrap();
    let outcome = own.renew(&RenewOptions { before: Some(1000 * HOUR), ..options() });
    assert!(
        matches!(&outcome.results[..], [RenewalResult::Skipped(why)] if why.contains("a key that is not this CA's")),
        "{:?}",
        outcome.results
    );
    let old_ca = write_private(own.folder.path(), "old.pem", &foreign.pem()).unwrap();
    let moved =
        own.renew(&RenewOptions { old_ca: Some(OldCa::load(&old_ca).unwrap()), ..options() });
    assert!(matches!(moved.results[..], [RenewalResult::Renewed(_)]), "{:?}", moved.results);
    // A server's certificate is out of scope.
    let server = foreign.issue(&leaf.usage(Usage::Server)).unwrap();
    write_private(&at, "etcd-cert", &server.certificate).unwrap();
    write_private(&at, "etcd-key", &server.key).unwrap();
    let outcome =
        own.renew(&RenewOptions { old_ca: Some(OldCa::load(&old_ca).unwrap()), ..options() });
    assert!(matches!(outcome.results[..], [RenewalResult::Skipped(_)]), "{:?}", outcome.results);
}

/// A certificate is public: an attacker who puts a copy of it beside another key must not get a
/// valid key for its name.
#[test]
fn a_new_key_is_issued_only_for_the_matching_old_one() {
    let own = own();
    let at = own.set("a", HOUR / 4);
    let (another, p521) = (
        rcgen::KeyPair::generate().unwrap(),
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap(),
    );
    for junk in ["junk".to_owned(), String::new(), another.serialize_pem(), p521.serialize_pem()] {
        write_private(&at, "etcd-key", &junk).unwrap();
        for keep_key in [false, true] {
            let outcome =
                own.renew(&RenewOptions { keep_key, before: Some(200 * HOUR), ..options() });
            let failed = matches!(&outcome.results[..], [RenewalResult::Failed(why)] if why.contains("`certs issue --force` replaces both"));
            assert!(failed && outcome.files.is_empty(), "{junk}: {:?}", outcome.results);
        }
    }
    // Even if the pair is not due: it is unusable.
    write_private(&own.set("a", 100 * HOUR), "etcd-key", "junk").unwrap();
    assert!(matches!(own.renew(&options()).results[..], [RenewalResult::Failed(_)]));
}

#[test]
fn an_expired_certificate_is_renewed_only_on_request() {
    let own = own();
    own.set("a", Duration::ZERO);
    let renewed = |expired| own.renew(&RenewOptions { expired, ..options() }).results;
    assert!(
        matches!(&renewed(false)[..], [RenewalResult::Failed(why)] if why.contains("it expired on") && why.contains("`--expired`"))
    );
    assert!(matches!(renewed(true)[..], [RenewalResult::Renewed(_)]));
}

#[test]
fn a_failed_renewal_says_why() {
    let own = own();
    let at = own.set("a", HOUR / 4);
    std::fs::remove_file(at.join("etcd-key")).unwrap();
    own.set("z", 1000 * HOUR);
    let outcome = own.renew(&RenewOptions {
        before: Some(2000 * HOUR),
        lifetime: Some(5000 * HOUR),
        ..options()
    });
    match &outcome.results[..] {
        [RenewalResult::Failed(no_key), RenewalResult::Failed(no_time)] => {
            assert!(
                no_key.contains("its key was not found") && no_time.contains("renew the CA"),
                "{no_key}; {no_time}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(outcome.files.is_empty());
}

/// Identified by its name alone, one Secret would get the certificate and key of the other.
#[test]
fn secrets_of_one_name_in_two_namespaces_are_kept_apart() {
    let own = own();
    let pairs = ["a", "b"].map(|name| own.pair(name, HOUR / 4));
    own.manifest(&[("one", "etcd", &pairs[0]), ("two", "etcd", &pairs[1])]);
    let outcome = own.renew(&options());
    assert!(
        matches!(outcome.results[..], [RenewalResult::Renewed(_), RenewalResult::Renewed(_)]),
        "{:?}",
        outcome.results
    );
    let [file] = &outcome.files[..] else { panic!("one file") };
    std::fs::write(own.folder.path().join("sets/secrets.yaml"), file.content.as_bytes()).unwrap();
    let inventory = scan(&own.folder.path().join("sets")).unwrap();
    let named: Vec<_> = inventory
        .certificates
        .iter()
        .map(|found| (found.secret.as_ref().unwrap().to_string(), dns(found), found.key.clone()))
        .collect();
    let fits = inventory::KeyState::Fits(None);
    let expected = [("one/etcd", "a.example.org"), ("two/etcd", "b.example.org")];
    assert_eq!(
        named,
        expected.map(|(secret, name)| (secret.to_owned(), name.to_owned(), fits.clone()))
    );
}

fn dns(found: &FoundCertificate) -> String {
    etcd_warden_core::identity::Identity::from_certificate(found.leaf(), "x".into())
        .dns_sans
        .join(",")
}

#[test]
fn secrets_that_share_a_pair_fail_and_the_rest_is_renewed() {
    let own = own();
    let (shared, alone) = (own.pair("a", HOUR / 4), own.pair("b", HOUR / 4));
    let other_key = (own.pair("c", HOUR / 4).0, shared.1.clone());
    own.manifest(&[
        ("one", "x", &shared),
        ("two", "x", &shared),
        ("one", "y", &alone),
        ("one", "z", &other_key),
    ]);
    let outcome = own.renew(&options());
    match &outcome.results[..] {
        [
            RenewalResult::Failed(one),
            RenewalResult::Failed(two),
            RenewalResult::Renewed(_),
            RenewalResult::Failed(_),
        ] => {
            assert!(
                one == two
                    && one.contains(
                        "another Secret of the manifest holds the same certificate or key"
                    ),
                "{one}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(
        outcome.files[0].content.contains(&shared.1.lines().nth(1).unwrap().to_owned()),
        "what failed stays"
    );
    assert_eq!(outcome.files.len(), 1);
}

#[test]
fn a_name_that_the_ca_does_not_permit_fails_alone() {
    let own = own_of(|params| {
        let permitted = vec![rcgen::GeneralSubtree::DnsName("example.org".to_owned())];
        params.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: permitted,
            excluded_subtrees: Vec::new(),
        });
    });
    own.set("a", HOUR / 4);
    let at = own.set("b", HOUR / 4);
    let old = Authority::new("old").unwrap();
    let foreign = old.issue(&Leaf::client("x").dns("n1.example.com")).unwrap();
    write_private(&at, "etcd-cert", &foreign.certificate).unwrap();
    write_private(&at, "etcd-key", &foreign.key).unwrap();
    let old_ca = write_private(own.folder.path(), "old.pem", &old.pem()).unwrap();
    let outcome =
        own.renew(&RenewOptions { old_ca: Some(OldCa::load(&old_ca).unwrap()), ..options() });
    assert!(
        matches!(&outcome.results[..], [RenewalResult::Renewed(_), RenewalResult::Failed(why)] if why.contains("name constraints")),
        "{:?}",
        outcome.results
    );
    assert_eq!(outcome.files.len(), 2);
}

#[test]
fn a_pair_in_one_file_is_renewed_in_that_file() {
    let own = own();
    let at = own.set("a", HOUR / 4);
    let (certificate, key) = own.pair("b", HOUR / 4);
    std::fs::remove_file(at.join("etcd-cert")).unwrap();
    write_private(&at, "both.pem", &(certificate + &key)).unwrap();
    write_private(&at, "both.key", "another's").unwrap();
    let outcome = own.renew(&options());
    let names: Vec<_> = outcome
        .files
        .iter()
        .map(|file| (file.path.clone(), file.secret, file.content.matches("BEGIN").count()))
        .collect();
    assert_eq!(names, [(PathBuf::from("a/both.pem"), true, 2)]);
    // Replacing the file with the certificate alone would delete the key.
    let kept = own.renew(&RenewOptions { keep_key: true, ..options() });
    assert!(
        matches!(&kept.results[..], [RenewalResult::Failed(why)] if why.contains("its key is in the same file")),
        "{:?}",
        kept.results
    );
    assert!(kept.files.is_empty());
}

#[test]
fn a_key_of_two_certificates_is_not_replaced() {
    let own = own();
    let (certificate, key) = own.pair("a", HOUR / 4);
    let sets = own.folder.path().join("sets");
    std::fs::create_dir(&sets).unwrap();
    for (name, text) in [("c.crt", &certificate), ("c.pem", &certificate), ("c.key", &key)] {
        write_private(&sets, name, text).unwrap();
    }
    own.set("b", HOUR / 4);
    let outcome = own.renew(&options());
    let failed = |result: &RenewalResult| matches!(result, RenewalResult::Failed(why) if why.contains("the same key file"));
    assert!(
        matches!(&outcome.results[..], [RenewalResult::Renewed(_), one, two] if failed(one) && failed(two)),
        "{:?}",
        outcome.results
    );
    assert_eq!(outcome.files.len(), 2);
    let kept = own.renew(&RenewOptions { keep_key: true, ..options() });
    assert!(
        kept.results.iter().all(|result| matches!(result, RenewalResult::Renewed(_))),
        "{:?}",
        kept.results
    );
}

/// A file that cannot be put in place would otherwise stop this run and each later one.
#[test]
fn a_set_that_cannot_be_written_fails_alone() {
    let own = own();
    for name in ["a", "b", "c"] {
        own.set(name, HOUR / 4);
    }
    let sets = own.folder.path().join("sets");
    std::fs::create_dir(sets.join("a/etcd-ca")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", sets.join("b/etcd-ca")).unwrap();
    let outcome = own.renew(&RenewOptions { server_ca: Some("CA".to_owned()), ..options() });
    match &outcome.results[..] {
        [RenewalResult::Failed(folder), RenewalResult::Failed(link), RenewalResult::Renewed(_)] => {
            assert!(
                folder.contains("a/etcd-ca: this is a directory")
                    && link.contains("b/etcd-ca` is a symbolic link"),
                "{folder}; {link}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(outcome.files.iter().all(|file| file.path.starts_with("c")));
}

/// A user who replaces the key file after its check does not become the owner of the new key.
#[test]
fn a_new_key_gets_the_owner_recorded_by_the_scan() {
    let own = own();
    let at = own.set("a", HOUR / 4);
    let sets = own.folder.path().join("sets");
    let inventory = scan(&sets).unwrap();
    std::fs::set_permissions(
        at.join("etcd-key"),
        std::os::unix::fs::PermissionsExt::from_mode(0o666),
    )
    .unwrap();
    let outcome = renew(&own.ca, &inventory, &sets, &options(), SystemTime::now(), &|_| ());
    let key = outcome.files.iter().find(|file| file.secret).unwrap();
    assert_eq!(key.owner.unwrap().mode, 0o600);
}

#[test]
fn links_and_der_files_are_not_replaced() {
    let own = own();
    let linked = own.set("a", HOUR / 4);
    std::fs::rename(linked.join("etcd-key"), own.folder.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(own.folder.path().join("elsewhere"), linked.join("etcd-key"))
        .unwrap();
    let der = own.set("b", HOUR / 4);
    let text = std::fs::read(der.join("etcd-cert")).unwrap();
    std::fs::write(der.join("etcd-cert"), pem::parse(text).unwrap().contents()).unwrap();
    let outcome = own.renew(&options());
    match &outcome.results[..] {
        [RenewalResult::Failed(link), RenewalResult::Failed(der)] => {
            assert!(
                link.contains("its key is a symbolic link") && der.contains("it is DER"),
                "{link}; {der}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(outcome.files.is_empty());
    let kept = own.renew(&RenewOptions { keep_key: true, ..options() });
    assert!(
        matches!(kept.results[..], [RenewalResult::Renewed(_), RenewalResult::Failed(_)]),
        "{:?}",
        kept.results
    );
}
