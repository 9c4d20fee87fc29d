//! What a CA may vouch for, and when. Go's `crypto/x509` refuses each of these, and so does etcd.

use std::time::Duration;

use super::*;

fn made(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let mut params = ca_params(name);
    change(&mut params);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn under(issuer: &Ca, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
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
fn a_ca_vouches_only_while_it_is_in_date() {
    let (new, old) =
        (made("new", |_| {}), made("old", |params| params.not_after = date_time_ymd(2035, 1, 1)));
    let later = made("later", |params| params.not_before = date_time_ymd(2040, 1, 1));
    let trust = trust(&[&new, &old, &later]).unwrap();
    let verdict = |issuer: &Ca, year| {
        let chain = chain(issuer, &[]);
        trust
            .prove(&chain[0], &chain[1..], at(year))
            .map(drop)
            .map_err(|error| failure::of_tls(&failure::of_webpki(error)))
    };
    for (issuer, year, expected) in [
        (&new, 2030, Ok(())),
        (&old, 2030, Ok(())),
        (&old, 2036, Err(HandshakeFailure::Expired)),
        (&new, 2036, Ok(())),
        (&later, 2036, Err(HandshakeFailure::Expired)),
        (&later, 2041, Ok(())),
    ] {
        assert_eq!(verdict(issuer, year), expected, "{year}");
    }
}

#[test]
fn an_expired_ca_in_a_bundle_is_in_nobodys_way() {
    let (new, old) =
        (made("new", |_| {}), made("old", |params| params.not_after = date_time_ymd(2024, 1, 1)));
    let both = trust(&[&new, &old]).unwrap();
    assert_eq!(both.verify(&chain(&new, &[])).map(drop), Ok(()));
    assert_eq!(both.verify(&chain(&old, &[])), Err(HandshakeFailure::Expired));
    assert_eq!(
        both.stale().iter().map(|stale| stale.message.as_str()).collect::<Vec<_>>(),
        ["certificate 2 (`CN=old`) expired on 2024-01-01T00:00:00Z"]
    );
    assert!(trust(&[&old]).unwrap_err().contains("expired on 2024-01-01"), "no other is left");
}

#[test]
fn an_expired_ca_needs_no_revocation_list() {
    let (pki, new, old) = (
        Pki::new(),
        made("new", |_| {}),
        made("old", |params| params.not_after = date_time_ymd(2024, 1, 1)),
    );
    let files = pki.downstream(&[("new", &new), ("old", &old)], &[crl(&new, &[], 2090)]);
    assert!(ClientTrust::load(&files).is_ok());
}

#[test]
fn a_connection_ends_with_the_first_certificate_of_its_path() {
    let root = made("root", |params| params.not_after = date_time_ymd(2035, 1, 1));
    let below = under(&root, "below", |params| params.not_after = date_time_ymd(2033, 1, 1));
    let trust = trust(&[&root]).unwrap();
    let ends = |chain: &[CertificateDer<'_>]| trust.verify(chain).unwrap().not_after;
    assert_eq!(ends(&chain(&root, &[])), at(2035).as_secs());
    assert_eq!(ends(&chain(&below, &[&below])), at(2033).as_secs());
}

#[test]
fn a_ca_that_may_not_sign_certificates_vouches_for_none() {
    let unable = |params: &mut CertificateParams| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature]
    };
    let found = trust(&[&made("unable", unable)]).unwrap_err();
    assert!(found.ends_with("certificate 1 (`CN=unable`) may not sign certificates (its key usage lacks `keyCertSign`): etcd refuses all that it has issued, too"), "{found}");
    let root = made("root", |_| {});
    let (able, unable) =
        (under(&root, "able", |params| params.key_usages.clear()), under(&root, "unable", unable));
    let trust = trust(&[&root]).unwrap();
    assert_eq!(
        trust.verify(&chain(&able, &[&able])).map(drop),
        Ok(()),
        "without key usage it may do anything"
    );
    assert_eq!(trust.verify(&chain(&unable, &[&unable])), Err(HandshakeFailure::BadCertificate));
}

#[test]
fn a_roots_own_limits_hold() {
    let root = made("root", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let below = under(&root, "below", |_| {});
    let limited = trust(&[&root]).unwrap();
    assert_eq!(limited.verify(&chain(&root, &[])).map(drop), Ok(()));
    assert_eq!(
        limited.verify(&chain(&below, &[&below])),
        Err(HandshakeFailure::BadCertificate),
        "one CA too many"
    );
    let servers = made("servers", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
    });
    assert!(trust(&[&servers]).unwrap_err().contains("does not name `clientAuth`"));
}

/// Two CAs may both vouch for one chain, by a certificate of the one for the key of the other.
#[test]
fn the_ca_of_a_client_is_one_that_lets_it_in() {
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
async fn etcds_ca_vouches_only_while_it_is_in_date() {
    let (pki, new, old) =
        (Pki::new(), ca("new"), made("old", |params| params.not_after = date_time_ymd(2024, 1, 1)));
    let bundle = pki.write("etcd.crt", new.pem() + &old.pem());
    let way =
        ClientTls::load(&pki.upstream(Some(bundle), Some(&leaf(&new, |_| {})))).unwrap().unwrap();
    assert_eq!(way.stale().len(), 1);
    for (issuer, expected) in [(&new, None), (&old, Some(HandshakeFailure::RefusedByClient))] {
        let server = pki.downstream(&[("default", &new)], &[]);
        let shown = leaf(issuer, |_| {});
        fs::write(&server.cert_file, shown.chain).unwrap();
        fs::write(&server.key_file, shown.key).unwrap();
        let server = ServerTls::load(&server).unwrap();
        assert_eq!(connect(&server, way.rustls_config()).await.err(), expected);
    }
    let only_old = pki.upstream(Some(pki.write("old.crt", old.pem())), None);
    assert!(ClientTls::load(&only_old).unwrap_err().to_string().contains("expired on 2024-01-01"));
}
