//! Client certificates that are in use in the field, and what TLS makes of them here:
//! `docs/certificates.md` has the table.

use super::*;

fn verdict_of(issuer: &Ca, certificate: CertificateDer<'static>) -> Result<(), HandshakeFailure> {
    let pki = Pki::new();
    ClientTrust::load(&pki.downstream(&[("default", issuer)], &[]))
        .unwrap()
        .verify(&[certificate])
        .map(drop)
}

fn der(leaf: &Leaf) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(leaf.chain.as_bytes()).unwrap()
}

#[test]
fn a_client_certificate_that_says_it_is_a_ca_is_refused() {
    let issuer = ca("calico");
    let as_ca = leaf(&issuer, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(verdict_of(&issuer, der(&as_ca)), Err(HandshakeFailure::BadCertificate));
    let said_no = leaf(&issuer, |params| params.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(verdict_of(&issuer, der(&said_no)), Ok(()));
}

#[test]
fn a_self_signed_certificate_is_no_client_even_if_it_is_trusted() {
    let own = ca("alone");
    assert_eq!(verdict_of(&own, own.der().clone()), Err(HandshakeFailure::BadCertificate));
}

#[test]
fn no_extended_key_usage_means_any_and_another_is_refused() {
    let issuer = ca("calico");
    let with = |usages: &[ExtendedKeyUsagePurpose]| {
        der(&leaf(&issuer, |params| params.extended_key_usages = usages.to_vec()))
    };
    assert_eq!(verdict_of(&issuer, with(&[])), Ok(()));
    assert_eq!(
        verdict_of(&issuer, with(&[ExtendedKeyUsagePurpose::ServerAuth])),
        Err(HandshakeFailure::WrongKeyUsage)
    );
    assert_eq!(
        verdict_of(&issuer, with(&[ExtendedKeyUsagePurpose::Any])),
        Err(HandshakeFailure::WrongKeyUsage)
    );
}

#[test]
fn sha_1_is_refused() {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let issuer = CertifiedIssuer::self_signed(ca_params("rsa"), key).unwrap();
    let good = der(&leaf(&issuer, |_| {}));
    assert_eq!(verdict_of(&issuer, good.clone()), Ok(()));
    // sha256WithRSAEncryption becomes sha1WithRSAEncryption, in both of its places (RFC 4055, 5;
    // RFC 8017, A.2.4).
    let mut bytes = good.to_vec();
    let (sha256, sha1) = ([0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b], 5);
    let places: Vec<usize> = bytes
        .windows(9)
        .enumerate()
        .filter(|(_, window)| *window == sha256)
        .map(|(at, _)| at + 8)
        .collect();
    assert_eq!(places.len(), 2);
    for at in places {
        bytes[at] = sha1;
    }
    assert_eq!(verdict_of(&issuer, bytes.into()), Err(HandshakeFailure::BadCertificate));
}

#[test]
fn a_certificate_without_any_name_is_let_in_by_tls_and_is_nobody() {
    let issuer = ca("calico");
    let nameless = leaf(&issuer, |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![];
    });
    assert_eq!(verdict_of(&issuer, der(&nameless)), Ok(()));
    let identity =
        etcd_warden_core::identity::Identity::from_certificate(&der(&nameless), "default".into());
    assert!(identity.common_name.is_err(), "{identity:?}");
}

#[test]
fn version_1_is_refused() {
    let issuer = ca("calico");
    let mut bytes = der(&leaf(&issuer, |_| {})).to_vec();
    // version [0] EXPLICIT INTEGER v3 becomes v1 (RFC 5280, 4.1).
    let at = bytes.windows(5).position(|window| window == [0xa0, 3, 2, 1, 2]).unwrap() + 4;
    bytes[at] = 0;
    assert_eq!(verdict_of(&issuer, bytes.into()), Err(HandshakeFailure::BadCertificate));
}

/// Certificates that rcgen does not make, from a file that OpenSSL made: the first is the CA, each
/// has a line of text in front.
#[test]
fn certificates_of_the_field_are_let_in_or_refused_as_the_page_says() {
    let pem = include_str!("field.pem");
    let all: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect();
    let names: Vec<&str> = pem
        .split("-----BEGIN")
        .filter_map(|before| before.trim_end().lines().next_back())
        .collect();
    let pki = Pki::new();
    let ours = ca("ours");
    let mut files = pki.downstream(&[("default", &ours)], &[]);
    files.client_cas[0].file =
        pki.write("field.pem", pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap());
    let trust = ClientTrust::load(&files).unwrap();
    let identity = |at: usize| {
        etcd_warden_core::identity::Identity::from_certificate(&all[at], "default".into())
            .common_name
            .map_err(|refusal| refusal.code())
    };
    // What is wrong with the second and third shows when their client signs: no handshake with such
    // a key succeeds.
    for (at, name, verdict, cn) in [
        (1, "an ordinary one", Ok(()), Ok("bob".into())),
        (2, "RSA, 1024 bits", Ok(()), Ok("bob".into())),
        (3, "P-224", Ok(()), Ok("bob".into())),
        (
            4,
            "critical certificate policies",
            Err(HandshakeFailure::BadCertificate),
            Ok("bob".into()),
        ),
        (
            5,
            "an unknown critical extension",
            Err(HandshakeFailure::BadCertificate),
            Ok("bob".into()),
        ),
        (6, "a CN of TeletexString", Ok(()), Err("cn-not-utf8")),
    ] {
        assert_eq!(names[at], name);
        assert_eq!(
            (trust.verify(&[all[at].clone()]).map(drop), identity(at)),
            (verdict, cn),
            "{name}"
        );
    }
}
