//! Revocation lists: which count, which are refused before they can do harm, and what becomes of
//! clients under them.

use rcgen::{CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope};
use rustls_pki_types::CertificateRevocationListDer;

use super::*;

/// The mistakes of a listener with these CAs and lists, with the folder's name cut off.
fn mistakes(cas: &[(&str, &Ca)], lists: &[impl AsRef<[u8]>]) -> Vec<String> {
    let pki = Pki::new();
    let mut downstream = pki.downstream(cas, &[]);
    downstream.crl_files = lists
        .iter()
        .enumerate()
        .map(|(index, list)| pki.write(&format!("{index}.crl"), list))
        .collect();
    let folder = format!("{}/", pki.folder.path().display());
    let errors = ClientTrust::load(&downstream).err().map_or_else(Vec::new, |errors| errors.0);
    errors.iter().map(|error| error.to_string().replace(&folder, "")).collect()
}

fn scoped(issuer: &Ca, scope: Option<CrlScope>) -> String {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from_slice(&[1]),
        issuing_distribution_point: Some(CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint { uris: vec!["http://ca.test/x.crl".into()] },
            scope,
        }),
        revoked_certs: vec![],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().pem().unwrap()
}

/// The list in DER, with these bytes replaced by others, as many: what rcgen does not make.
fn patched(list: &str, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut der = CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap().to_vec();
    let at = der.windows(from.len()).position(|window| window == from).unwrap();
    der[at..at + to.len()].copy_from_slice(to);
    der
}

#[test]
fn each_of_several_cas_needs_a_list() {
    let (one, two) = (ca("one"), ca("two"));
    let cas = [("calico", &one), ("kubernetes", &two)];
    assert_eq!(mistakes(&cas, &[crl(&one, &[], 2090), crl(&two, &[], 2090)]), [""; 0]);
    assert_eq!(
        mistakes(&cas, &[crl(&one, &[], 2090) + &crl(&two, &[], 2090)]),
        [""; 0],
        "both in one file"
    );
    assert_eq!(
        mistakes(&cas, &[crl(&one, &[], 2090)]),
        [
            "kubernetes.crt: no revocation list of CA `kubernetes` (`CN=two`) is in `client-crl-file`: all its clients would be refused"
        ]
    );
    let ended = |file: &str| {
        format!(
            "{file}.crl: revocation list 1 ended on 2025-01-01T00:00:00Z: fetch the CA's newest"
        )
    };
    assert_eq!(
        mistakes(&cas, &[crl(&one, &[], 2090), crl(&two, &[], 2025)]),
        [""; 0],
        "one CA has a list in date"
    );
    assert_eq!(
        mistakes(&cas, &[crl(&one, &[], 2025), crl(&two, &[], 2025)]),
        [ended("0"), ended("1")]
    );
}

/// In a handshake such a list would shut out everybody, and in a reload everybody who is connected.
#[test]
fn a_list_that_another_key_has_signed_is_refused_as_a_file() {
    let (one, twin) = (ca("same name"), ca("same name"));
    let not_signed = |name: &str| {
        format!(
            "{name}.crt: a revocation list that names CA `{name}` (`CN=same name`) as its issuer is not signed with that CA's key: all its \
             clients would be refused"
        )
    };
    assert_eq!(mistakes(&[("default", &one)], &[crl(&twin, &[], 2090)]), [not_signed("default")]);
    let flipped = patched(&crl(&one, &[66], 2090), &[2, 1, 66], &[2, 1, 67]);
    assert_eq!(mistakes(&[("default", &one)], &[flipped]), [not_signed("default")], "one bit");
    let both = [crl(&one, &[], 2090), crl(&twin, &[], 2090)];
    assert_eq!(
        mistakes(&[("one", &one), ("twin", &twin)], &both),
        [not_signed("one"), not_signed("twin")]
    );
}

#[test]
fn a_ca_that_may_not_sign_lists_is_refused_with_lists() {
    let mut params = ca_params("no crls");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let other = KeyPair::generate().unwrap();
    let signer = CertifiedIssuer::self_signed(
        ca_params("no crls"),
        KeyPair::from_pem(&other.serialize_pem()).unwrap(),
    )
    .unwrap();
    let limited = CertifiedIssuer::self_signed(params, other).unwrap();
    let found = mistakes(&[("default", &limited)], &[crl(&signer, &[], 2090)]);
    assert_eq!(
        found,
        [
            "default.crt: CA `default` (`CN=no crls`) may not sign revocation lists (key usage `cRLSign`): all its clients would be refused"
        ]
    );
    assert_eq!(mistakes(&[("default", &limited)], &[""; 0]), [""; 0], "without lists it need not");
}

#[test]
fn lists_of_a_sort_that_is_not_understood_are_refused_by_name() {
    let issuer = ca("calico");
    let found = |list: Vec<u8>| mistakes(&[("default", &issuer)], &[list]);
    let of_clients = scoped(&issuer, Some(CrlScope::UserCertsOnly));
    assert_eq!(found(of_clients.clone().into()), [""; 0]);
    // The extension of RFC 5280, 5.2.5, becomes the one of 5.2.4: both are critical.
    assert_eq!(
        found(patched(&of_clients, &[0x55, 0x1d, 0x1c], &[0x55, 0x1d, 0x1b])),
        [
            "0.crl: revocation list 1 (`CN=calico`) is a delta list, which says what has changed and not who is revoked: fetch the whole list"
        ]
    );
    // onlyContainsUserCerts becomes indirectCRL.
    assert_eq!(
        found(patched(&of_clients, &[0x81, 1, 0xff], &[0x84, 1, 0xff])),
        [
            "0.crl: revocation list 1 (`CN=calico`) is an indirect list, which speaks for other CAs too: fetch the list of the CA itself"
        ]
    );
    assert_eq!(
        found(patched(&of_clients, &[0x55, 0x1d, 0x1c], &[0x55, 0x1d, 0x7f])),
        [
            "0.crl: revocation list 1 (`CN=calico`) has a critical extension that is not known here, so that it may not be used (RFC 5280, 5.2)"
        ]
    );
    assert_eq!(
        found(scoped(&issuer, Some(CrlScope::CaCertsOnly)).into()),
        [
            "default.crt: the revocation lists of CA `default` (`CN=calico`) speak of other certificates than clients': all its clients would \
          be refused"
        ]
    );
}

#[test]
fn a_large_list_counts_and_a_giant_file_is_refused_unread() {
    let (pki, issuer) = (Pki::new(), ca("calico"));
    let revoked_certs = (0..20_000_u32).map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&[&[1], &serial.to_be_bytes()[..]].concat()),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from_slice(&[1]),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let mut files = pki
        .downstream(&[("default", &issuer)], &[params.signed_by(&issuer).unwrap().pem().unwrap()]);
    let trust = ClientTrust::load(&files).unwrap();
    let with = |serial: &[u8]| {
        let leaf =
            leaf(&issuer, |params| params.serial_number = Some(SerialNumber::from_slice(serial)));
        trust.verify(&[CertificateDer::from_pem_slice(leaf.chain.as_bytes()).unwrap()]).map(drop)
    };
    assert_eq!(with(&[1, 0, 0, 0x4e, 0x1f]), Err(HandshakeFailure::Revoked), "the last one");
    assert_eq!(with(&[1, 0, 0, 0x4e, 0x20]), Ok(()));

    let giant = pki.write("giant.crl", "");
    fs::File::create(&giant).unwrap().set_len((64 << 20) + 1).unwrap();
    files.crl_files = vec![giant];
    assert!(
        ClientTrust::load(&files)
            .unwrap_err()
            .to_string()
            .ends_with("giant.crl: is larger than 64 MiB")
    );
}

/// The list says which certificates are revoked: those that it names, also of intermediate CAs.
#[test]
fn a_revoked_intermediate_takes_its_clients_along() {
    let (pki, root) = (Pki::new(), ca("root"));
    let mut params = ca_params("below");
    params.serial_number = Some(SerialNumber::from_slice(&[42]));
    let below = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    let node = leaf(&below, |_| {});
    let chain =
        [CertificateDer::from_pem_slice(node.chain.as_bytes()).unwrap(), below.der().clone()];
    for (revoked, verdict) in [(&[41][..], Ok(())), (&[42], Err(HandshakeFailure::Revoked))] {
        let lists = [crl(&root, revoked, 2090), crl(&below, &[], 2090)];
        assert_eq!(
            ClientTrust::load(&pki.downstream(&[("default", &root)], &lists))
                .unwrap()
                .verify(&chain)
                .map(drop),
            verdict
        );
    }
}

/// The serial number of every leaf here.
const LEAF: u8 = 7;

fn der_of(leaf: &Leaf) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(leaf.chain.as_bytes()).unwrap()
}

#[test]
fn who_is_in_any_list_in_date_is_revoked_in_any_order() {
    let (issuer, below) = (ca("calico"), |root: &Ca| {
        CertifiedIssuer::signed_by(ca_params("below"), KeyPair::generate().unwrap(), root).unwrap()
    });
    let below = below(&issuer);
    let (direct, through) = (der_of(&leaf(&issuer, |_| {})), der_of(&leaf(&below, |_| {})));
    let verdict = |lists: &[String]| {
        let pki = Pki::new();
        let trust = ClientTrust::load(&pki.downstream(&[("default", &issuer)], lists)).unwrap();
        [
            trust.verify(std::slice::from_ref(&direct)).map(drop),
            trust.verify(&[through.clone(), below.der().clone()]).map(drop),
        ]
    };
    let (empty, names, ended) =
        (crl(&issuer, &[], 2090), crl(&issuer, &[LEAF], 2089), crl(&issuer, &[LEAF], 2025));
    let (of_below, names_below) = (crl(&below, &[], 2090), crl(&below, &[1, LEAF, 9], 2091));
    let user_only = scoped(&issuer, Some(CrlScope::UserCertsOnly));
    let (ok, revoked) = (Ok(()), Err(HandshakeFailure::Revoked));
    for (lists, expected) in [
        (vec![&empty, &of_below], [ok, ok]),
        (vec![&empty, &names, &of_below], [revoked, ok]),
        (vec![&names, &empty, &of_below], [revoked, ok]),
        (vec![&empty, &empty, &of_below, &empty, &names], [revoked, ok]),
        (vec![&user_only, &names, &of_below], [revoked, ok]),
        (vec![&empty, &of_below, &names_below], [ok, revoked]),
        (vec![&names_below, &of_below, &empty], [ok, revoked]),
        // A list that has ended says nothing where another is in date.
        (vec![&ended, &empty, &of_below], [ok, ok]),
        (vec![&empty, &ended, &of_below], [ok, ok]),
    ] {
        assert_eq!(
            verdict(&lists.iter().copied().cloned().collect::<Vec<_>>()),
            expected,
            "in files of their own"
        );
        assert_eq!(verdict(&[lists.iter().copied().cloned().collect()]), expected, "in one file");
    }
}

#[test]
fn an_ended_list_concerns_its_own_ca_alone() {
    let (pki, one, two) = (Pki::new(), ca("one"), ca("two"));
    let files = pki
        .downstream(&[("one", &one), ("two", &two)], &[crl(&one, &[], 2090), crl(&two, &[], 2025)]);
    let trust = ClientTrust::load(&files).unwrap();
    let verdict = |issuer: &Ca| trust.verify(&[der_of(&leaf(issuer, |_| {}))]).map(drop);
    assert_eq!(
        (verdict(&one), verdict(&two)),
        (Ok(()), Err(HandshakeFailure::RevocationListExpired))
    );
    assert_eq!(trust.stale().len(), 1);
    // News of the one are not held up by the other.
    pki.write("0.crl", crl(&one, &[LEAF], 2090));
    let (renewed, mistakes) =
        trust.renewed(&files, &crate::files::Files::read(files.trust_files(), MAX_BYTES)).unwrap();
    assert!(mistakes.0.is_empty(), "{mistakes}");
    assert_eq!(
        renewed.verify(&[der_of(&leaf(&one, |_| {}))]).map(drop),
        Err(HandshakeFailure::Revoked)
    );
}

#[test]
fn a_file_with_a_mistake_has_what_it_had_and_blocks_none() {
    let (pki, one, two) = (Pki::new(), ca("one"), ca("two"));
    let files = pki
        .downstream(&[("one", &one), ("two", &two)], &[crl(&one, &[], 2090), crl(&two, &[], 2090)]);
    let trust = ClientTrust::load(&files).unwrap();
    let after = |trust: &ClientTrust| {
        trust.renewed(&files, &crate::files::Files::read(files.trust_files(), MAX_BYTES)).unwrap()
    };
    let verdict =
        |trust: &ClientTrust, issuer: &Ca| trust.verify(&[der_of(&leaf(issuer, |_| {}))]).map(drop);
    for bad in ["", "nothing", "-----BEGIN X509 CRL-----\nAAAA\n", &crl(&two, &[], 2025)] {
        pki.write("0.crl", crl(&one, &[LEAF], 2090));
        pki.write("1.crl", bad);
        pki.write("two.crt", if bad.is_empty() { String::new() } else { two.pem() });
        let (renewed, mistakes) = after(&trust);
        assert_eq!(
            (verdict(&renewed, &one), verdict(&renewed, &two)),
            (Err(HandshakeFailure::Revoked), Ok(())),
            "{bad}"
        );
        assert_eq!(mistakes.0.is_empty(), bad.len() > 100, "{mistakes}");
    }
}

/// CAs `one` and `two`, each with its list, and what becomes of them at a reload.
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

    /// The client of `one` is revoked, and another file changes with it.
    fn reload(&mut self, file: &str, content: &str) -> String {
        self.pki.write("0.crl", crl(&self.one, &[LEAF], 2090));
        self.pki.write(file, content);
        let (renewed, mistakes) = self
            .trust
            .renewed(&self.files, &crate::files::Files::read(self.files.trust_files(), MAX_BYTES))
            .unwrap();
        self.trust = renewed;
        assert_eq!(self.verdict(&self.one), Err(HandshakeFailure::Revoked), "{file} {content}");
        mistakes.to_string()
    }

    fn verdict(&self, issuer: &Ca) -> Result<String, HandshakeFailure> {
        self.trust.verify(&[der_of(&leaf(issuer, |_| {}))]).map(|proved| proved.ca.to_string())
    }
}

#[test]
fn an_older_list_in_date_brings_back_nobody() {
    let mut all = Two::new();
    let (revoked, none) = ([LEAF], []);
    let issuer = ca("two");
    all.pki.write("two.crt", issuer.pem());
    let list = |revoked: &[u8], issue, ends| issued(&issuer, revoked, issue, ends);
    assert_eq!(all.reload("1.crl", &list(&revoked, (300, 2025), 2090)), "");
    let ended = list(&none, (2, 2024), 2025);
    for older in [
        list(&none, (299, 2026), 2091),
        list(&none, (2, 2024), 2091),
        list(&none, (300, 2024), 2091),
        scoped(&issuer, None),
        ended.clone(),
    ] {
        for _ in 0..3 {
            let mistakes = all.reload("1.crl", &older);
            assert_eq!(
                mistakes.contains("1.crl: the revocation list of `CN=two` (number 0x"),
                older != ended,
                "{mistakes}"
            );
            assert_eq!(all.verdict(&issuer), Err(HandshakeFailure::Revoked), "{mistakes}");
        }
    }
    // Beside the later one it does no harm, and a later one takes its place.
    assert_eq!(
        all.reload("1.crl", &(list(&none, (2, 2024), 2091) + &list(&revoked, (300, 2025), 2090))),
        ""
    );
    assert_eq!(all.verdict(&issuer), Err(HandshakeFailure::Revoked));
    assert!(all.reload("1.crl", &list(&none, (2, 2024), 2091)).contains("(number 0x02, of 2024"));
    assert_eq!(all.reload("1.crl", &list(&none, (301, 2025), 2090)), "");
    assert_eq!(all.verdict(&issuer), Ok("two".into()));
    // A CA of the same name with another key begins anew.
    let anew = ca("two");
    all.pki.write("two.crt", anew.pem());
    assert_eq!(all.reload("1.crl", &crl(&anew, &[], 2090)), "");
    assert_eq!(all.verdict(&anew), Ok("two".into()));
}

#[test]
fn lists_of_another_ca_or_key_block_no_other_file() {
    let mut all = Two::new();
    let wrong = [
        crl(&all.one, &[], 2090),
        crl(&ca("two"), &[], 2090),
        scoped(&all.two, Some(CrlScope::CaCertsOnly)),
        crl(&all.one, &[], 2090) + &crl(&all.two, &[], 2025),
    ];
    for (number, list) in wrong.iter().enumerate() {
        for _ in 0..3 {
            let mistakes = all.reload("1.crl", list);
            assert_eq!(
                mistakes.contains("`two`"),
                number < 3,
                "an ended list is stale: {mistakes}"
            );
            assert_eq!(
                all.verdict(&all.two),
                Ok("two".into()),
                "the CA keeps the list that it had"
            );
        }
    }
    let revoked = crl(&all.two, &[LEAF], 2090);
    assert_eq!(
        all.reload("1.crl", &(revoked.clone() + &crl(&ca("two"), &[], 2090)))
            .matches("not signed")
            .count(),
        1
    );
    assert_eq!(all.verdict(&all.two), Err(HandshakeFailure::Revoked));
    assert_eq!(all.reload("1.crl", &revoked), "");
}

#[test]
fn a_ca_without_its_list_lets_none_in_and_blocks_none() {
    let mut all = Two::new();
    let (new_key, third) = (ca("two"), ca("third"));
    let mistakes = all.reload("two.crt", &(all.two.pem() + &third.pem()));
    assert!(mistakes.contains("no revocation list of CA `two` (`CN=third`)"), "{mistakes}");
    assert_eq!(
        (all.verdict(&all.two), all.verdict(&third)),
        (Ok("two".into()), Err(HandshakeFailure::NoRevocationList))
    );
    // The CA has a new key, and the list of the new key comes later.
    let mistakes = all.reload("two.crt", &new_key.pem());
    assert!(mistakes.contains("is not signed with that CA's key"), "{mistakes}");
    assert_eq!(
        (all.verdict(&all.two), all.verdict(&new_key)),
        (Err(HandshakeFailure::BadCertificate), Err(HandshakeFailure::NoRevocationList))
    );
    assert_eq!(all.reload("1.crl", &crl(&new_key, &[], 2090)), "");
    assert_eq!(all.verdict(&new_key), Ok("two".into()));
    // A CA that may sign no lists.
    let mut params = ca_params("two");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let limited = CertifiedIssuer::self_signed(
        params,
        KeyPair::from_pem(&new_key.key().serialize_pem()).unwrap(),
    )
    .unwrap();
    assert!(all.reload("two.crt", &limited.pem()).contains("cRLSign"));
    assert_eq!(all.verdict(&limited), Err(HandshakeFailure::NoRevocationList));
}

#[test]
fn a_ca_file_that_repeats_another_or_has_ended_blocks_none() {
    let mut all = Two::new();
    for file in [all.one.pem() + &all.two.pem(), all.one.pem()] {
        assert!(all.reload("two.crt", &file).contains("has a certificate that CA `one` has too"));
        assert_eq!(all.verdict(&all.two), Ok("two".into()), "the file has what it had");
    }
    all.pki.write("one.crt", all.two.pem());
    assert_eq!(all.reload("two.crt", &all.one.pem()), "", "both files at once");
    assert_eq!(all.verdict(&all.two), Ok("one".into()));
    let ended = |name: &str| {
        let mut params = ca_params(name);
        params.not_after = date_time_ymd(2025, 1, 1);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap().pem()
    };
    all.pki.write("one.crt", ended("two"));
    assert!(all.reload("two.crt", &ended("one")).contains("expired"), "no CA would be left");
    assert_eq!(all.verdict(&all.two), Ok("one".into()));
}
