//! Unusual client certificates that exist in practice. `docs/certificates.md` has the table.

use super::*;

fn verify(issuer: &Ca, certificate: CertificateDer<'static>) -> Result<(), HandshakeFailure> {
    let pki = Pki::new();
    ClientTrust::load(&pki.downstream(&[("default", issuer)], &[]))
        .unwrap()
        .verify(&[certificate])
        .map(drop)
}

#[test]
fn rejects_a_client_certificate_that_is_a_ca() {
    let issuer = ca("calico");
    let as_ca = leaf(&issuer, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(verify(&issuer, der(&as_ca)), Err(HandshakeFailure::BadCertificate));
    let explicit_no = leaf(&issuer, |params| params.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(verify(&issuer, der(&explicit_no)), Ok(()));
}

#[test]
fn rejects_a_trusted_self_signed_certificate_as_a_client() {
    let own = ca("alone");
    assert_eq!(verify(&own, own.der().clone()), Err(HandshakeFailure::BadCertificate));
}

#[test]
fn extended_key_usage_must_be_absent_or_client_auth() {
    let issuer = ca("calico");
    let with = |usages: &[ExtendedKeyUsagePurpose]| {
        der(&leaf(&issuer, |params| params.extended_key_usages = usages.to_vec()))
    };
    assert_eq!(verify(&issuer, with(&[])), Ok(()));
    assert_eq!(
        verify(&issuer, with(&[ExtendedKeyUsagePurpose::ServerAuth])),
        Err(HandshakeFailure::WrongKeyUsage)
    );
    assert_eq!(
        verify(&issuer, with(&[ExtendedKeyUsagePurpose::Any])),
        Err(HandshakeFailure::WrongKeyUsage)
    );
}

#[test]
fn rejects_sha_1() {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let issuer = CertifiedIssuer::self_signed(ca_params("rsa"), key).unwrap();
    let good = der(&leaf(&issuer, |_| {}));
    assert_eq!(verify(&issuer, good.clone()), Ok(()));
    // Changes both occurrences of sha256WithRSAEncryption to sha1WithRSAEncryption (RFC 4055, 5;
    // RFC 8017, A.2.4).
    let mut bytes = good.to_vec();
    let (sha256, sha1) = ([0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b], 5);
    let offsets: Vec<usize> = bytes
        .windows(9)
        .enumerate()
        .filter(|(_, window)| *window == sha256)
        .map(|(at, _)| at + 8)
        .collect();
    assert_eq!(offsets.len(), 2);
    for at in offsets {
        bytes[at] = sha1;
    }
    assert_eq!(verify(&issuer, bytes.into()), Err(HandshakeFailure::BadCertificate));
}

#[test]
fn a_certificate_without_names_passes_tls_but_has_no_identity() {
    let issuer = ca("calico");
    let nameless = leaf(&issuer, |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![];
    });
    assert_eq!(verify(&issuer, der(&nameless)), Ok(()));
    let identity =
        etcd_warden_core::identity::Identity::from_certificate(&der(&nameless), "default".into());
    assert!(identity.common_name.is_err(), "{identity:?}");
}

#[test]
fn rejects_version_1() {
    let issuer = ca("calico");
    let mut bytes = der(&leaf(&issuer, |_| {})).to_vec();
    // Changes version [0] EXPLICIT INTEGER from v3 to v1 (RFC 5280, 4.1).
    let at = bytes.windows(5).position(|window| window == [0xa0, 3, 2, 1, 2]).unwrap() + 4;
    bytes[at] = 0;
    assert_eq!(verify(&issuer, bytes.into()), Err(HandshakeFailure::BadCertificate));
}

/// Certificates that rcgen cannot make. OpenSSL made the file: the first certificate is the CA, and
/// each has a line of text before it.
#[test]
fn treats_certificates_from_practice_as_documented() {
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
    // The second and third are valid, but no handshake with such a key succeeds: it fails when the
    // client signs.
    for (at, name, verified, cn) in [
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
        (6, "a CN of TeletexString", Ok(()), Err("cn_not_utf8")),
    ] {
        assert_eq!(names[at], name);
        assert_eq!(
            (trust.verify(&[all[at].clone()]).map(drop), identity(at)),
            (verified, cn),
            "{name}"
        );
    }
}
