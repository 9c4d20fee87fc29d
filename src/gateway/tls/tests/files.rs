//! Unusable files: each is an error with its path and the reason, and all are reported together.

use super::*;

/// The errors, without the path of the folder.
fn errors(pki: &Pki, downstream: &Downstream) -> Vec<String> {
    let folder = format!("{}/", pki.folder.path().display());
    let errors = ServerTls::load(downstream).err().map_or_else(Vec::new, |errors| errors.0);
    errors.iter().map(|error| error.to_string().replace(&folder, "")).collect()
}

/// The errors of a valid listener after one change.
fn errors_after(change: impl FnOnce(&Pki, &mut Downstream, &Ca)) -> Vec<String> {
    let (pki, ca) = (Pki::new(), ca("calico"));
    let mut downstream = pki.downstream(&[("default", &ca)], &[]);
    change(&pki, &mut downstream, &ca);
    errors(&pki, &downstream)
}

#[test]
fn a_valid_listener_has_no_errors() {
    assert_eq!(errors_after(|_, _, _| {}), [""; 0]);
}

#[test]
fn reports_a_file_that_cannot_be_read() {
    assert_eq!(
        errors_after(|_, files, _| fs::remove_file(&files.key_file).unwrap()),
        ["server.key: does not exist"]
    );
    assert_eq!(
        errors_after(|pki, files, _| files.cert_file = pki.folder.path().join(".")),
        [".: is a directory, not a file"]
    );
    assert_eq!(
        errors_after(|_, files, _| fs::write(&files.client_cas[0].file, "").unwrap()),
        ["default.crt: is empty"]
    );
}

/// Root may read any file, so that only other users run the last check.
#[cfg(unix)]
#[test]
fn reports_a_file_without_permission() {
    use std::os::unix::fs::PermissionsExt;
    let path = Pki::new().folder.keep().join("server.key");
    fs::write(&path, "secret").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let sentence =
        crate::files::ReadError::from(io::Error::from(io::ErrorKind::PermissionDenied)).to_string();
    assert_eq!(sentence, "may not be read by this user");
    if let Err(error) = crate::files::read(&path, 100) {
        assert_eq!(error.to_string(), "may not be read by this user");
    }
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn reports_a_file_without_a_usable_certificate() {
    let write = |content: &'static [u8]| {
        move |_: &Pki, files: &mut Downstream, _: &Ca| fs::write(&files.cert_file, content).unwrap()
    };
    assert_eq!(
        errors_after(write(b"hello")),
        ["server.crt: contains no certificate (`-----BEGIN CERTIFICATE-----`)"]
    );
    assert_eq!(
        errors_after(write(b"-----BEGIN CERTIFICATE-----\nAAAA\n")),
        ["server.crt: is not PEM: a section has no end line (`-----END ...-----`)"]
    );
    assert_eq!(
        errors_after(write(b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n")),
        ["server.crt: is not PEM: a section is not base64"]
    );
    assert_eq!(
        errors_after(write(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
        ["server.crt: the first certificate cannot be parsed"]
    );
    assert_eq!(
        errors_after(|_, files, ca| fs::write(&files.cert_file, ca.der()).unwrap()),
        ["server.crt: is DER, not PEM: convert it (`openssl x509 -inform der`, or `openssl pkey \
             -inform der`)"]
    );
}

#[test]
fn reports_a_certificate_that_clients_would_reject() {
    let certificate = |change: fn(&mut CertificateParams)| {
        errors_after(move |_, files, ca| {
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
        ["server.crt: the certificate is not valid before 2090-01-01T00:00:00Z: check the clock \
             of this host, too"]
    );
    assert_eq!(
        certificate(|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }),
        ["server.crt: the certificate: its extended key usage lacks `serverAuth`, so that peers \
             would reject it"]
    );
    assert_eq!(certificate(|params| params.extended_key_usages = vec![]), [""; 0]);
}

#[test]
fn reports_a_key_of_another_certificate() {
    let found = errors_after(|_, files, _| {
        fs::write(&files.key_file, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    });
    assert!(
        found.len() == 1
            && found[0].starts_with("server.key: is not the key of the certificate in `")
            && found[0].ends_with("server.crt`"),
        "{found:?}"
    );
}

#[test]
fn reports_a_file_without_a_usable_key() {
    let write = |content: String| {
        move |_: &Pki, files: &mut Downstream, _: &Ca| fs::write(&files.key_file, content).unwrap()
    };
    let key = || KeyPair::generate().unwrap().serialize_pem();
    let encrypted = "server.key: contains an encrypted key: a service has no password to decrypt \
                     it with, so decrypt the file (`openssl pkey`)";
    assert_eq!(errors_after(write(key().replace("PRIVATE", "ENCRYPTED PRIVATE"))), [encrypted]);
    let traditional = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n\
                       -----END RSA PRIVATE KEY-----\n";
    assert_eq!(errors_after(write(traditional.into())), [encrypted]);
    assert_eq!(
        errors_after(write(key() + &key())),
        ["server.key: contains more than one private key: keep only one"]
    );
    assert_eq!(
        errors_after(|_, files, _| assert!(
            fs::copy(&files.cert_file, &files.key_file).unwrap() > 0
        )),
        ["server.key: contains no private key (`-----BEGIN PRIVATE KEY-----`)"]
    );
    let found = errors_after(write(
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".into(),
    ));
    assert!(
        found.len() == 1 && found[0].starts_with("server.key: is not a usable key: "),
        "{found:?}"
    );
}

#[test]
fn no_error_shows_the_content_of_a_key() {
    let found = errors_after(|_, files, _| {
        fs::write(
            &files.key_file,
            "-----BEGIN PRIVATE KEY-----\nc2VjcmV0!\n-----END PRIVATE KEY-----\n",
        )
        .unwrap();
    });
    assert!(found.len() == 1 && !found[0].contains("c2VjcmV0"), "{found:?}");
}

#[test]
fn reports_a_client_ca_file_without_a_valid_ca() {
    let expired = |year| {
        let mut params = ca_params("old");
        params.not_after = date_time_ymd(year, 1, 1);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let write = |content: String| {
        move |_: &Pki, files: &mut Downstream, _: &Ca| {
            fs::write(&files.client_cas[0].file, content).unwrap();
        }
    };
    assert_eq!(
        errors_after(write("no PEM here\n".into())),
        ["default.crt: contains no certificate (`-----BEGIN CERTIFICATE-----`)"]
    );
    assert_eq!(
        errors_after(write(leaf(&ca("x"), |_| {}).chain)),
        ["default.crt: certificate 1 (`CN=leaf`) is not a CA certificate"]
    );
    assert_eq!(
        errors_after(write(expired(2024).pem())),
        ["default.crt: certificate 1 (`CN=old`) expired on 2024-01-01T00:00:00Z"]
    );
    assert_eq!(
        errors_after(write(ca("new").pem() + &expired(2024).pem())),
        [""; 0],
        "another CA is valid"
    );
    assert_eq!(errors_after(write(ca("new").pem() + &expired(2090).pem())), [""; 0]);
}

#[test]
fn reports_a_ca_with_two_names() {
    let found = errors_after(|_, files, _| {
        let twin = ClientCa { name: "twin".into(), file: files.client_cas[0].file.clone() };
        files.client_cas.push(twin);
    });
    assert_eq!(
        found,
        ["default.crt: CA `twin` has a certificate that CA `default` has, too: each name needs \
             a CA of its own"]
    );
}

#[test]
fn reports_unusable_revocation_lists() {
    let list = |crl: fn(&Ca) -> Vec<u8>| {
        errors_after(move |pki, files, ca| files.crl_files = vec![pki.write("x.crl", crl(ca))])
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
        ["x.crl: revocation list 1 expired on 2025-01-01T00:00:00Z: fetch the CA's latest list"]
    );
    assert_eq!(
        list(|ca| ca.pem().into()),
        ["x.crl: contains no revocation list (`-----BEGIN X509 CRL-----`)"]
    );
    assert_eq!(list(|ca| ca.der().to_vec()), ["x.crl: revocation list 1 cannot be parsed"]);
    assert_eq!(
        list(|_| crl(&ca("other"), &[], 2090).into()),
        ["default.crt: `client-crl-file` has no revocation list of CA `default` (`CN=calico`): \
             all its clients would be rejected"]
    );
}

#[test]
fn reports_all_errors_together() {
    let found = errors_after(|pki, files, _| {
        files.cert_file = pki.folder.path().join("absent.crt");
        fs::write(&files.key_file, "x").unwrap();
        fs::write(&files.client_cas[0].file, "x").unwrap();
        files.crl_files = vec![pki.write("x.crl", "x")];
    });
    let files: Vec<_> = found.iter().map(|error| error.split(':').next().unwrap()).collect();
    assert_eq!(files, ["absent.crt", "server.key", "default.crt", "x.crl"]);
}

#[test]
fn reports_an_expired_certificate_and_a_wrong_key() {
    let found = errors_after(|_, files, ca| {
        let expired = leaf(ca, |params| params.not_after = date_time_ymd(2024, 1, 1));
        fs::write(&files.cert_file, expired.chain).unwrap();
    });
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("expired on") && found[1].contains("is not the key of"), "{found:?}");
}

#[test]
fn checks_the_files_towards_etcd_as_well() {
    let (pki, etcd) = (Pki::new(), ca("etcd"));
    let server_only = leaf(&etcd, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let upstream = pki.upstream(Some(pki.write("etcd.crt", "nothing")), Some(&server_only));
    let errors = ClientTls::load(&upstream).unwrap_err().to_string();
    assert!(errors.contains("etcd.crt: contains no certificate"), "{errors}");
    assert!(
        errors.contains("client.crt: the certificate: its extended key usage lacks `clientAuth`"),
        "{errors}"
    );
}
