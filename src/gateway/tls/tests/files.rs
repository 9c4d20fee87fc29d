//! Files that cannot be used: each is refused at start, with its path and the reason, and all at
//! once.

use super::*;

/// What is wrong, with the folder's name cut off.
fn mistakes(pki: &Pki, downstream: &Downstream) -> Vec<String> {
    let folder = format!("{}/", pki.folder.path().display());
    let errors = ServerTls::load(downstream).err().map_or_else(Vec::new, |errors| errors.0);
    errors.iter().map(|error| error.to_string().replace(&folder, "")).collect()
}

/// The mistakes of a good listener after one change.
fn after(change: impl FnOnce(&Pki, &mut Downstream, &Ca)) -> Vec<String> {
    let (pki, ca) = (Pki::new(), ca("calico"));
    let mut downstream = pki.downstream(&[("default", &ca)], &[]);
    change(&pki, &mut downstream, &ca);
    mistakes(&pki, &downstream)
}

#[test]
fn a_good_listener_has_no_mistakes() {
    assert_eq!(after(|_, _, _| {}), [""; 0]);
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    assert_eq!(
        after(|_, files, _| fs::remove_file(&files.key_file).unwrap()),
        ["server.key: does not exist"]
    );
    assert_eq!(
        after(|pki, files, _| files.cert_file = pki.folder.path().join(".")),
        [".: is a directory, not a file"]
    );
    assert_eq!(
        after(|_, files, _| fs::write(&files.client_cas[0].file, "").unwrap()),
        ["default.crt: is empty"]
    );
}

/// Root may read everything, so that the test can only ask when it is somebody else.
#[cfg(unix)]
#[test]
fn a_file_without_permission_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let path = Pki::new().folder.keep().join("server.key");
    fs::write(&path, "secret").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let sentence =
        crate::files::Unread::from(io::Error::from(io::ErrorKind::PermissionDenied)).to_string();
    assert_eq!(sentence, "may not be read by this user");
    if let Err(error) = crate::files::read(&path, 100) {
        assert_eq!(error.to_string(), "may not be read by this user");
    }
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn a_certificate_file_without_a_usable_certificate_is_refused() {
    let write = |content: &'static [u8]| {
        move |_: &Pki, files: &mut Downstream, _: &Ca| fs::write(&files.cert_file, content).unwrap()
    };
    assert_eq!(
        after(write(b"hello")),
        ["server.crt: holds no certificate (`-----BEGIN CERTIFICATE-----`)"]
    );
    assert_eq!(
        after(write(b"-----BEGIN CERTIFICATE-----\nAAAA\n")),
        ["server.crt: is not PEM: a section has no end line (`-----END ...-----`)"]
    );
    assert_eq!(
        after(write(b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n")),
        ["server.crt: is not PEM: a section is not base64"]
    );
    assert_eq!(
        after(write(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
        ["server.crt: the first certificate cannot be read"]
    );
    assert_eq!(
        after(|_, files, ca| fs::write(&files.cert_file, ca.der()).unwrap()),
        [
            "server.crt: is DER, not PEM: convert it (`openssl x509 -inform der`, or `openssl pkey -inform der`)"
        ]
    );
}

#[test]
fn a_certificate_that_clients_would_refuse_is_refused() {
    let certificate = |change: fn(&mut CertificateParams)| {
        after(move |_, files, ca| {
            let leaf = leaf(ca, change);
            fs::write(&files.cert_file, leaf.chain).unwrap();
            fs::write(&files.key_file, leaf.key).unwrap();
        })
    };
    assert_eq!(
        certificate(|params| params.not_after = date_time_ymd(2024, 2, 3)),
        ["server.crt: the certificate expired on 2024-02-03T00:00:00Z"]
    );
    assert_eq!(
        certificate(|params| params.not_before = date_time_ymd(2090, 1, 1)),
        [
            "server.crt: the certificate is not valid before 2090-01-01T00:00:00Z: look at this machine's clock, too"
        ]
    );
    assert_eq!(
        certificate(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        [
            "server.crt: the certificate: its extended key usage does not name `serverAuth`: peers would refuse it"
        ]
    );
    assert_eq!(certificate(|params| params.extended_key_usages = vec![]), [""; 0]);
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused() {
    let found = after(|_, files, _| {
        fs::write(&files.key_file, KeyPair::generate().unwrap().serialize_pem()).unwrap()
    });
    assert!(
        found.len() == 1
            && found[0].starts_with("server.key: is not the key of the certificate in `")
            && found[0].ends_with("server.crt`"),
        "{found:?}"
    );
}

#[test]
fn a_key_file_without_a_usable_key_is_refused() {
    let write = |content: String| {
        move |_: &Pki, files: &mut Downstream, _: &Ca| fs::write(&files.key_file, content).unwrap()
    };
    let key = || KeyPair::generate().unwrap().serialize_pem();
    let encrypted = "server.key: holds an encrypted key: there is nobody to ask for its password, so decrypt it (`openssl pkey`)";
    assert_eq!(after(write(key().replace("PRIVATE", "ENCRYPTED PRIVATE"))), [encrypted]);
    assert_eq!(
        after(write("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n".into())),
        [encrypted]
    );
    assert_eq!(
        after(write(key() + &key())),
        ["server.key: holds more than one private key: leave the one that is meant"]
    );
    assert_eq!(
        after(|_, files, _| assert!(fs::copy(&files.cert_file, &files.key_file).unwrap() > 0)),
        ["server.key: holds no private key (`-----BEGIN PRIVATE KEY-----`)"]
    );
    let found =
        after(write("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".into()));
    assert!(
        found.len() == 1 && found[0].starts_with("server.key: is not a usable key: "),
        "{found:?}"
    );
}

#[test]
fn no_mistake_shows_what_is_in_a_key() {
    let found = after(|_, files, _| {
        fs::write(
            &files.key_file,
            "-----BEGIN PRIVATE KEY-----\nc2VjcmV0!\n-----END PRIVATE KEY-----\n",
        )
        .unwrap()
    });
    assert!(found.len() == 1 && !found[0].contains("c2VjcmV0"), "{found:?}");
}

#[test]
fn a_client_ca_file_without_a_ca_in_date_is_refused() {
    let expired = |year| {
        let mut params = ca_params("old");
        params.not_after = date_time_ymd(year, 1, 1);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let write = |content: String| {
        move |_: &Pki, files: &mut Downstream, _: &Ca| {
            fs::write(&files.client_cas[0].file, content).unwrap()
        }
    };
    assert_eq!(
        after(write("no PEM here\n".into())),
        ["default.crt: holds no certificate (`-----BEGIN CERTIFICATE-----`)"]
    );
    assert_eq!(
        after(write(leaf(&ca("x"), |_| {}).chain)),
        ["default.crt: certificate 1 (`CN=leaf`) is not a CA certificate"]
    );
    assert_eq!(
        after(write(expired(2024).pem())),
        ["default.crt: certificate 1 (`CN=old`) expired on 2024-01-01T00:00:00Z"]
    );
    assert_eq!(
        after(write(ca("new").pem() + &expired(2024).pem())),
        [""; 0],
        "another one is in date"
    );
    assert_eq!(after(write(ca("new").pem() + &expired(2090).pem())), [""; 0]);
}

#[test]
fn one_ca_under_two_names_is_refused() {
    let found = after(|_, files, _| {
        let twin = ClientCa { name: "twin".into(), file: files.client_cas[0].file.clone() };
        files.client_cas.push(twin);
    });
    assert_eq!(
        found,
        [
            "default.crt: CA `twin` has a certificate that CA `default` has too: each name needs a CA of its own"
        ]
    );
}

#[test]
fn revocation_lists_that_say_nothing_are_refused() {
    let list = |crl: fn(&Ca) -> Vec<u8>| {
        after(move |pki, files, ca| files.crl_files = vec![pki.write("x.crl", crl(ca))])
    };
    assert_eq!(list(|ca| crl(ca, &[], 2090).into()), [""; 0]);
    assert_eq!(
        list(|ca| {
            let pem = crl(ca, &[], 2090);
            rustls_pki_types::CertificateRevocationListDer::from_pem_slice(pem.as_bytes())
                .unwrap()
                .to_vec()
        }),
        [""; 0],
        "DER"
    );
    assert_eq!(
        list(|ca| crl(ca, &[], 2025).into()),
        ["x.crl: revocation list 1 ended on 2025-01-01T00:00:00Z: fetch the CA's newest"]
    );
    assert_eq!(
        list(|ca| ca.pem().into()),
        ["x.crl: holds no revocation list (`-----BEGIN X509 CRL-----`)"]
    );
    assert_eq!(list(|ca| ca.der().to_vec()), ["x.crl: revocation list 1 cannot be read"]);
    assert_eq!(
        list(|_| crl(&ca("other"), &[], 2090).into()),
        [
            "default.crt: no revocation list of CA `default` (`CN=calico`) is in `client-crl-file`: all its clients would be refused"
        ]
    );
}

#[test]
fn all_mistakes_come_at_once() {
    let found = after(|pki, files, _| {
        files.cert_file = pki.folder.path().join("absent.crt");
        fs::write(&files.key_file, "x").unwrap();
        fs::write(&files.client_cas[0].file, "x").unwrap();
        files.crl_files = vec![pki.write("x.crl", "x")];
    });
    let files: Vec<_> = found.iter().map(|sentence| sentence.split(':').next().unwrap()).collect();
    assert_eq!(files, ["absent.crt", "server.key", "default.crt", "x.crl"]);
}

#[test]
fn an_expired_certificate_with_the_wrong_key_has_two_mistakes() {
    let found = after(|_, files, ca| {
        let expired = leaf(ca, |params| params.not_after = date_time_ymd(2024, 1, 1));
        fs::write(&files.cert_file, expired.chain).unwrap();
    });
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("expired on") && found[1].contains("is not the key of"), "{found:?}");
}

#[test]
fn the_files_towards_etcd_are_held_to_the_same() {
    let (pki, etcd) = (Pki::new(), ca("etcd"));
    let server_only = leaf(&etcd, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
    });
    let upstream = pki.upstream(Some(pki.write("etcd.crt", "nothing")), Some(&server_only));
    let errors = ClientTls::load(&upstream).unwrap_err().to_string();
    assert!(errors.contains("etcd.crt: holds no certificate"), "{errors}");
    assert!(
        errors.contains(
            "client.crt: the certificate: its extended key usage does not name `clientAuth`"
        ),
        "{errors}"
    );
}
