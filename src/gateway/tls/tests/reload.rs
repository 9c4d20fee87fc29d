//! Reloads with errors: which CAs and lists stay in effect.

use rcgen::CrlScope;

use super::revocation::scoped;
use super::*;

#[test]
fn an_expired_list_affects_its_own_ca_only() {
    let (pki, one, two) = (Pki::new(), ca("one"), ca("two"));
    let files = pki
        .downstream(&[("one", &one), ("two", &two)], &[crl(&one, &[], 2090), crl(&two, &[], 2025)]);
    let trust = ClientTrust::load(&files).unwrap();
    let verify = |issuer: &Ca| trust.verify(&[der(&leaf(issuer, |_| {}))]).map(drop);
    assert_eq!(
        (verify(&one), verify(&two)),
        (Ok(()), Err(HandshakeFailure::RevocationListExpired))
    );
    assert_eq!(trust.expired().len(), 1);
    // A new list of the one takes effect in spite of the other.
    pki.write("0.crl", crl(&one, &[LEAF_SERIAL], 2090));
    let (renewed, errors) =
        trust.renewed(&files, &crate::files::Files::read(files.trust_files(), MAX_BYTES)).unwrap();
    assert!(errors.0.is_empty(), "{errors}");
    assert_eq!(
        renewed.verify(&[der(&leaf(&one, |_| {}))]).map(drop),
        Err(HandshakeFailure::Revoked)
    );
}

#[test]
fn a_file_with_an_error_keeps_its_content_and_blocks_none() {
    let (pki, one, two) = (Pki::new(), ca("one"), ca("two"));
    let files = pki
        .downstream(&[("one", &one), ("two", &two)], &[crl(&one, &[], 2090), crl(&two, &[], 2090)]);
    let trust = ClientTrust::load(&files).unwrap();
    let reload = |trust: &ClientTrust| {
        trust.renewed(&files, &crate::files::Files::read(files.trust_files(), MAX_BYTES)).unwrap()
    };
    let verify =
        |trust: &ClientTrust, issuer: &Ca| trust.verify(&[der(&leaf(issuer, |_| {}))]).map(drop);
    for bad in ["", "nothing", "-----BEGIN X509 CRL-----\nAAAA\n", &crl(&two, &[], 2025)] {
        pki.write("0.crl", crl(&one, &[LEAF_SERIAL], 2090));
        pki.write("1.crl", bad);
        pki.write("two.crt", if bad.is_empty() { String::new() } else { two.pem() });
        let (renewed, errors) = reload(&trust);
        assert_eq!(
            (verify(&renewed, &one), verify(&renewed, &two)),
            (Err(HandshakeFailure::Revoked), Ok(())),
            "{bad}"
        );
        assert_eq!(errors.0.is_empty(), bad.len() > 100, "{errors}");
    }
}

/// CAs `one` and `two`, each with its list.
struct Two {
    pki: Pki,
    one: Ca,
    two: Ca,
    files: Downstream,
    trust: ClientTrust,
}

impl Two {
    fn new() -> Self {
        let (pki, one, two) = (Pki::new(), ca("one"), ca("two"));
        let files = pki.downstream(
            &[("one", &one), ("two", &two)],
            &[crl(&one, &[], 2090), crl(&two, &[], 2090)],
        );
        let trust = ClientTrust::load(&files).unwrap();
        Self { pki, one, two, files, trust }
    }

    /// Revokes the client of `one` and changes another file. Returns the errors.
    fn reload(&mut self, file: &str, content: &str) -> String {
        self.pki.write("0.crl", crl(&self.one, &[LEAF_SERIAL], 2090));
        self.pki.write(file, content);
        let (renewed, errors) = self
            .trust
            .renewed(&self.files, &crate::files::Files::read(self.files.trust_files(), MAX_BYTES))
            .unwrap();
        self.trust = renewed;
        assert_eq!(self.verify(&self.one), Err(HandshakeFailure::Revoked), "{file} {content}");
        errors.to_string()
    }

    fn verify(&self, issuer: &Ca) -> Result<String, HandshakeFailure> {
        self.trust.verify(&[der(&leaf(issuer, |_| {}))]).map(|proved| proved.ca.to_string())
    }
}

#[test]
fn an_older_valid_list_does_not_restore_a_certificate() {
    let mut all = Two::new();
    let (revoked, none) = ([LEAF_SERIAL], []);
    let issuer = ca("two");
    all.pki.write("two.crt", issuer.pem());
    let list = |revoked: &[u8], issue, expires| numbered_crl(&issuer, revoked, issue, expires);
    assert_eq!(all.reload("1.crl", &list(&revoked, (300, 2025), 2090)), "");
    let expired = list(&none, (2, 2024), 2025);
    for older in [
        list(&none, (299, 2026), 2091),
        list(&none, (2, 2024), 2091),
        list(&none, (300, 2024), 2091),
        scoped(&issuer, None),
        expired.clone(),
    ] {
        for _ in 0..3 {
            let errors = all.reload("1.crl", &older);
            assert_eq!(
                errors.contains("1.crl: the revocation list of `CN=two` (number 0x"),
                older != expired,
                "{errors}"
            );
            assert_eq!(all.verify(&issuer), Err(HandshakeFailure::Revoked), "{errors}");
        }
    }
    // Beside the newer one it is accepted, and a newer one replaces it.
    assert_eq!(
        all.reload("1.crl", &(list(&none, (2, 2024), 2091) + &list(&revoked, (300, 2025), 2090))),
        ""
    );
    assert_eq!(all.verify(&issuer), Err(HandshakeFailure::Revoked));
    assert!(all.reload("1.crl", &list(&none, (2, 2024), 2091)).contains("(number 0x02, of 2024"));
    assert_eq!(all.reload("1.crl", &list(&none, (301, 2025), 2090)), "");
    assert_eq!(all.verify(&issuer), Ok("two".into()));
    // A CA of the same name with another key numbers its lists independently.
    let new_ca = ca("two");
    all.pki.write("two.crt", new_ca.pem());
    assert_eq!(all.reload("1.crl", &crl(&new_ca, &[], 2090)), "");
    assert_eq!(all.verify(&new_ca), Ok("two".into()));
}

#[test]
fn a_list_of_another_ca_or_key_blocks_no_other_file() {
    let mut all = Two::new();
    let wrong = [
        crl(&all.one, &[], 2090),
        crl(&ca("two"), &[], 2090),
        scoped(&all.two, Some(CrlScope::CaCertsOnly)),
        crl(&all.one, &[], 2090) + &crl(&all.two, &[], 2025),
    ];
    for (number, list) in wrong.iter().enumerate() {
        for _ in 0..3 {
            let errors = all.reload("1.crl", list);
            assert_eq!(
                errors.contains("`two`"),
                number < 3,
                "an expired list is not an error: {errors}"
            );
            assert_eq!(all.verify(&all.two), Ok("two".into()), "the CA keeps its previous list");
        }
    }
    let revoked = crl(&all.two, &[LEAF_SERIAL], 2090);
    assert_eq!(
        all.reload("1.crl", &(revoked.clone() + &crl(&ca("two"), &[], 2090)))
            .matches("not signed")
            .count(),
        1
    );
    assert_eq!(all.verify(&all.two), Err(HandshakeFailure::Revoked));
    assert_eq!(all.reload("1.crl", &revoked), "");
}

#[test]
fn a_ca_without_a_list_accepts_no_client_and_blocks_none() {
    let mut all = Two::new();
    let (new_key, third) = (ca("two"), ca("third"));
    let errors = all.reload("two.crt", &(all.two.pem() + &third.pem()));
    assert!(errors.contains("no revocation list of CA `two` (`CN=third`)"), "{errors}");
    assert_eq!(
        (all.verify(&all.two), all.verify(&third)),
        (Ok("two".into()), Err(HandshakeFailure::NoRevocationList))
    );
    // The CA has a new key, and the list of the new key arrives later.
    let errors = all.reload("two.crt", &new_key.pem());
    assert!(errors.contains("is not signed with that CA's key"), "{errors}");
    assert_eq!(
        (all.verify(&all.two), all.verify(&new_key)),
        (Err(HandshakeFailure::BadCertificate), Err(HandshakeFailure::NoRevocationList))
    );
    assert_eq!(all.reload("1.crl", &crl(&new_key, &[], 2090)), "");
    assert_eq!(all.verify(&new_key), Ok("two".into()));
    // A CA that may not sign lists.
    let mut params = ca_params("two");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let limited = CertifiedIssuer::self_signed(
        params,
        KeyPair::from_pem(&new_key.key().serialize_pem()).unwrap(),
    )
    .unwrap();
    assert!(all.reload("two.crt", &limited.pem()).contains("cRLSign"));
    assert_eq!(all.verify(&limited), Err(HandshakeFailure::NoRevocationList));
}

#[test]
fn a_ca_file_that_repeats_another_or_has_expired_blocks_none() {
    let mut all = Two::new();
    for file in [all.one.pem() + &all.two.pem(), all.one.pem()] {
        assert!(all.reload("two.crt", &file).contains("has a certificate that CA `one` has, too"));
        assert_eq!(all.verify(&all.two), Ok("two".into()), "the file keeps its content");
    }
    all.pki.write("one.crt", all.two.pem());
    assert_eq!(all.reload("two.crt", &all.one.pem()), "", "both files at once");
    assert_eq!(all.verify(&all.two), Ok("one".into()));
    let expired = |name: &str| {
        let mut params = ca_params(name);
        params.not_after = date_time_ymd(2025, 1, 1);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap().pem()
    };
    all.pki.write("one.crt", expired("two"));
    assert!(
        all.reload("two.crt", &expired("one")).contains("expired"),
        "no valid CA would be left"
    );
    assert_eq!(all.verify(&all.two), Ok("one".into()));
}
