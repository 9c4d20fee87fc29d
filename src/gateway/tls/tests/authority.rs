//! Limits of CAs. Go's `crypto/x509` rejects each of these, and so does etcd.

use std::time::Duration;

use super::*;

fn custom_ca(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let mut params = ca_params(name);
    change(&mut params);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn intermediate(issuer: &Ca, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let mut params = ca_params(name);
    change(&mut params);
    CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), issuer).unwrap()
}

fn trust(bundle: &[&Ca]) -> Result<ClientTrust, String> {
    let pki = Pki::new();
    let files = pki.downstream(&[("default", bundle[0])], &[]);
    fs::write(&files.client_cas[0].file, bundle.iter().map(|ca| ca.pem()).collect::<String>())
        .unwrap();
    ClientTrust::load(&files).map_err(|errors| errors.to_string())
}

fn chain(issuer: &Ca, above: &[&Ca]) -> Vec<CertificateDer<'static>> {
    let leaf = leaf(issuer, |_| {});
    let leaf = CertificateDer::from_pem_slice(leaf.chain.as_bytes()).unwrap();
    std::iter::once(leaf).chain(above.iter().map(|ca| ca.der().clone())).collect()
}

fn at(year: i32) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(
        date_time_ymd(year, 1, 1).unix_timestamp().try_into().unwrap(),
    ))
}

#[test]
fn accepts_clients_of_a_ca_only_while_it_is_valid() {
    let (new, old) = (
        custom_ca("new", |_| {}),
        custom_ca("old", |params| params.not_after = date_time_ymd(2035, 1, 1)),
    );
    let later = custom_ca("later", |params| params.not_before = date_time_ymd(2040, 1, 1));
    let trust = trust(&[&new, &old, &later]).unwrap();
    let verify = |issuer: &Ca, year| {
        let chain = chain(issuer, &[]);
        trust.verify_at(&chain, at(year)).map(drop)
    };
    for (issuer, year, expected) in [
        (&new, 2030, Ok(())),
        (&old, 2030, Ok(())),
        (&old, 2036, Err(HandshakeFailure::Expired)),
        (&new, 2036, Ok(())),
        (&later, 2036, Err(HandshakeFailure::Expired)),
        (&later, 2041, Ok(())),
    ] {
        assert_eq!(verify(issuer, year), expected, "{year}");
    }
}

#[test]
fn an_expired_ca_in_a_bundle_does_not_affect_the_others() {
    let (new, old) = (
        custom_ca("new", |_| {}),
        custom_ca("old", |params| params.not_after = date_time_ymd(2024, 1, 1)),
    );
    let both = trust(&[&new, &old]).unwrap();
    assert_eq!(both.verify(&chain(&new, &[])).map(drop), Ok(()));
    assert_eq!(both.verify(&chain(&old, &[])), Err(HandshakeFailure::Expired));
    assert_eq!(
        both.expired().iter().map(|expired| expired.message.as_str()).collect::<Vec<_>>(),
        ["certificate 2 (`CN=old`) expired on 2024-01-01T00:00:00Z"]
    );
    assert!(
        trust(&[&old]).unwrap_err().contains("expired on 2024-01-01"),
        "the only CA has expired"
    );
}

#[test]
fn an_expired_ca_needs_no_revocation_list() {
    let (pki, new, old) = (
        Pki::new(),
        custom_ca("new", |_| {}),
        custom_ca("old", |params| params.not_after = date_time_ymd(2024, 1, 1)),
    );
    let files = pki.downstream(&[("new", &new), ("old", &old)], &[crl(&new, &[], 2090)]);
    assert!(ClientTrust::load(&files).is_ok());
}

#[test]
fn a_chain_expires_with_its_first_certificate() {
    let root = custom_ca("root", |params| params.not_after = date_time_ymd(2035, 1, 1));
    let below = intermediate(&root, "below", |params| params.not_after = date_time_ymd(2033, 1, 1));
    let trust = trust(&[&root]).unwrap();
    let ends = |chain: &[CertificateDer<'_>]| trust.verify(chain).unwrap().not_after;
    assert_eq!(ends(&chain(&root, &[])), at(2035).as_secs());
    assert_eq!(ends(&chain(&below, &[&below])), at(2033).as_secs());
}

#[test]
fn rejects_a_ca_without_key_cert_sign() {
    let unable = |params: &mut CertificateParams| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    };
    let found = trust(&[&custom_ca("unable", unable)]).unwrap_err();
    let expected = "certificate 1 (`CN=unable`) may not sign certificates: its key usage lacks \
                    `keyCertSign`, so that etcd rejects all certificates that it issued, too";
    assert!(found.ends_with(expected), "{found}");
    let root = custom_ca("root", |_| {});
    let (able, unable) = (
        intermediate(&root, "able", |params| params.key_usages.clear()),
        intermediate(&root, "unable", unable),
    );
    let trust = trust(&[&root]).unwrap();
    assert_eq!(
        trust.verify(&chain(&able, &[&able])).map(drop),
        Ok(()),
        "a CA without key usage may sign"
    );
    assert_eq!(trust.verify(&chain(&unable, &[&unable])), Err(HandshakeFailure::BadCertificate));
}

#[test]
fn checks_path_length_and_usage_of_the_anchor() {
    let root =
        custom_ca("root", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let below = intermediate(&root, "below", |_| {});
    let limited = trust(&[&root]).unwrap();
    assert_eq!(limited.verify(&chain(&root, &[])).map(drop), Ok(()));
    assert_eq!(
        limited.verify(&chain(&below, &[&below])),
        Err(HandshakeFailure::BadCertificate),
        "path length 0 allows no intermediate CA"
    );
    let servers = custom_ca("servers", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert!(trust(&[&servers]).unwrap_err().contains("lacks `clientAuth`"));
}

/// Cross-signed: two CAs issued certificates for the same intermediate CA key.
#[test]
fn names_the_ca_whose_path_is_not_revoked() {
    let (pki, one, two) = (Pki::new(), ca("one"), ca("two"));
    let key = KeyPair::generate().unwrap();
    let copy = || KeyPair::from_pem(&key.serialize_pem()).unwrap();
    let mut crossed = ca_params("below");
    crossed.serial_number = Some(SerialNumber::from_slice(&[42]));
    let by_one = CertifiedIssuer::signed_by(crossed, copy(), &one).unwrap();
    let by_two = CertifiedIssuer::signed_by(ca_params("below"), copy(), &two).unwrap();
    let node = chain(&by_one, &[&by_one, &by_two]);
    for (revoked, expected) in [(&[][..], "one"), (&[42], "two")] {
        let lists = [crl(&one, revoked, 2090), crl(&two, &[], 2090), crl(&by_one, &[], 2090)];
        let trust =
            ClientTrust::load(&pki.downstream(&[("one", &one), ("two", &two)], &lists)).unwrap();
        assert_eq!(
            trust.verify(&node).map(|proved| proved.ca.to_string()),
            Ok(expected.to_owned())
        );
    }
}

#[tokio::test]
async fn trusts_etcd_only_while_its_ca_is_valid() {
    let (pki, new, old) = (
        Pki::new(),
        ca("new"),
        custom_ca("old", |params| params.not_after = date_time_ymd(2024, 1, 1)),
    );
    let bundle = pki.write("etcd.crt", new.pem() + &old.pem());
    let tls =
        ClientTls::load(&pki.upstream(Some(bundle), Some(&leaf(&new, |_| {})))).unwrap().unwrap();
    assert_eq!(tls.expired().len(), 1);
    for (issuer, expected) in [(&new, None), (&old, Some(HandshakeFailure::RefusedByClient))] {
        let server = pki.downstream(&[("default", &new)], &[]);
        let shown = leaf(issuer, |_| {});
        fs::write(&server.cert_file, shown.chain).unwrap();
        fs::write(&server.key_file, shown.key).unwrap();
        let server = ServerTls::load(&server).unwrap();
        assert_eq!(connect(&server, tls.rustls_config()).await.err(), expected);
    }
    let only_old = pki.upstream(Some(pki.write("old.crt", old.pem())), None);
    assert!(ClientTls::load(&only_old).unwrap_err().to_string().contains("expired on 2024-01-01"));
}
