//! Revocation lists: unusable ones are errors, usable ones reject revoked clients.

use rcgen::{CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope};
use rustls_pki_types::CertificateRevocationListDer;

use super::*;

/// The errors of a listener with these CAs and lists, without the path of the folder.
fn errors(cas: &[(&str, &Ca)], lists: &[impl AsRef<[u8]>]) -> Vec<String> {
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

pub(super) fn scoped(issuer: &Ca, scope: Option<CrlScope>) -> String {
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

/// The list in DER with some bytes replaced, for lists that rcgen cannot make.
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
    assert_eq!(errors(&cas, &[crl(&one, &[], 2090), crl(&two, &[], 2090)]), [""; 0]);
    assert_eq!(
        errors(&cas, &[crl(&one, &[], 2090) + &crl(&two, &[], 2090)]),
        [""; 0],
        "both in one file"
    );
    assert_eq!(
        errors(&cas, &[crl(&one, &[], 2090)]),
        ["kubernetes.crt: `client-crl-file` has no revocation list of CA `kubernetes` \
             (`CN=two`): all its clients would be rejected"]
    );
    let expired = |file: &str| {
        format!(
            "{file}.crl: revocation list 1 expired on 2025-01-01T00:00:00Z: fetch the CA's latest \
             list"
        )
    };
    assert_eq!(
        errors(&cas, &[crl(&one, &[], 2090), crl(&two, &[], 2025)]),
        [""; 0],
        "one CA has a valid list"
    );
    assert_eq!(
        errors(&cas, &[crl(&one, &[], 2025), crl(&two, &[], 2025)]),
        [expired("0"), expired("1")]
    );
}

/// In a handshake such a list would reject every client, and at a reload end all connections.
#[test]
fn reports_a_list_that_another_key_signed() {
    let (one, twin) = (ca("same name"), ca("same name"));
    let not_signed = |name: &str| {
        format!(
            "{name}.crt: a revocation list with the issuer name of CA `{name}` (`CN=same name`) is \
             not signed with that CA's key: all its \
             clients would be rejected"
        )
    };
    assert_eq!(errors(&[("default", &one)], &[crl(&twin, &[], 2090)]), [not_signed("default")]);
    let flipped = patched(&crl(&one, &[66], 2090), &[2, 1, 66], &[2, 1, 67]);
    assert_eq!(
        errors(&[("default", &one)], &[flipped]),
        [not_signed("default")],
        "one bit differs"
    );
    let both = [crl(&one, &[], 2090), crl(&twin, &[], 2090)];
    assert_eq!(
        errors(&[("one", &one), ("twin", &twin)], &both),
        [not_signed("one"), not_signed("twin")]
    );
}

#[test]
fn reports_a_ca_without_crl_sign_if_there_are_lists() {
    let mut params = ca_params("no crls");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let other = KeyPair::generate().unwrap();
    let signer = CertifiedIssuer::self_signed(
        ca_params("no crls"),
        KeyPair::from_pem(&other.serialize_pem()).unwrap(),
    )
    .unwrap();
    let limited = CertifiedIssuer::self_signed(params, other).unwrap();
    let found = errors(&[("default", &limited)], &[crl(&signer, &[], 2090)]);
    assert_eq!(
        found,
        ["default.crt: CA `default` (`CN=no crls`) may not sign revocation lists (its key usage \
             lacks `cRLSign`): all its clients would be rejected"]
    );
    assert_eq!(
        errors(&[("default", &limited)], &[""; 0]),
        [""; 0],
        "without lists it need not sign any"
    );
}

#[test]
fn reports_lists_of_an_unsupported_type() {
    let issuer = ca("calico");
    let found = |list: Vec<u8>| errors(&[("default", &issuer)], &[list]);
    let of_clients = scoped(&issuer, Some(CrlScope::UserCertsOnly));
    assert_eq!(found(of_clients.clone().into()), [""; 0]);
    // Changes the extension of RFC 5280, 5.2.5, to the one of 5.2.4: both are critical.
    assert_eq!(
        found(patched(&of_clients, &[0x55, 0x1d, 0x1c], &[0x55, 0x1d, 0x1b])),
        ["0.crl: revocation list 1 (`CN=calico`) is a delta list, which has changes only: fetch \
             the complete list"]
    );
    // Changes onlyContainsUserCerts to indirectCRL.
    assert_eq!(
        found(patched(&of_clients, &[0x81, 1, 0xff], &[0x84, 1, 0xff])),
        ["0.crl: revocation list 1 (`CN=calico`) is an indirect list, which covers other CAs \
             too: fetch the list of the CA itself"]
    );
    assert_eq!(
        found(patched(&of_clients, &[0x55, 0x1d, 0x1c], &[0x55, 0x1d, 0x7f])),
        ["0.crl: revocation list 1 (`CN=calico`) has a critical extension that is not \
             supported, so that it must not be used (RFC 5280, 5.2)"]
    );
    assert_eq!(
        found(scoped(&issuer, Some(CrlScope::CaCertsOnly)).into()),
        ["default.crt: the revocation lists of CA `default` (`CN=calico`) do not cover client \
             certificates: all its clients would \
          be rejected"]
    );
}

#[test]
fn accepts_a_large_list_and_does_not_read_a_giant_file() {
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
    assert_eq!(
        with(&[1, 0, 0, 0x4e, 0x1f]),
        Err(HandshakeFailure::Revoked),
        "the last serial number"
    );
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

#[test]
fn rejects_clients_of_a_revoked_intermediate() {
    let (pki, root) = (Pki::new(), ca("root"));
    let mut params = ca_params("below");
    params.serial_number = Some(SerialNumber::from_slice(&[42]));
    let below = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    let node = leaf(&below, |_| {});
    let chain =
        [CertificateDer::from_pem_slice(node.chain.as_bytes()).unwrap(), below.der().clone()];
    for (revoked, verified) in [(&[41][..], Ok(())), (&[42], Err(HandshakeFailure::Revoked))] {
        let lists = [crl(&root, revoked, 2090), crl(&below, &[], 2090)];
        assert_eq!(
            ClientTrust::load(&pki.downstream(&[("default", &root)], &lists))
                .unwrap()
                .verify(&chain)
                .map(drop),
            verified
        );
    }
}

#[test]
fn any_valid_list_revokes_in_any_order() {
    let (issuer, below) = (ca("calico"), |root: &Ca| {
        CertifiedIssuer::signed_by(ca_params("below"), KeyPair::generate().unwrap(), root).unwrap()
    });
    let below = below(&issuer);
    let (direct, through) = (der(&leaf(&issuer, |_| {})), der(&leaf(&below, |_| {})));
    let verify = |lists: &[String]| {
        let pki = Pki::new();
        let trust = ClientTrust::load(&pki.downstream(&[("default", &issuer)], lists)).unwrap();
        [
            trust.verify(std::slice::from_ref(&direct)).map(drop),
            trust.verify(&[through.clone(), below.der().clone()]).map(drop),
        ]
    };
    let (empty, names, expired) = (
        crl(&issuer, &[], 2090),
        crl(&issuer, &[LEAF_SERIAL], 2089),
        crl(&issuer, &[LEAF_SERIAL], 2025),
    );
    let (of_below, names_below) = (crl(&below, &[], 2090), crl(&below, &[1, LEAF_SERIAL, 9], 2091));
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
        // An expired list is ignored if another one of its issuer is valid.
        (vec![&expired, &empty, &of_below], [ok, ok]),
        (vec![&empty, &expired, &of_below], [ok, ok]),
    ] {
        assert_eq!(
            verify(&lists.iter().copied().cloned().collect::<Vec<_>>()),
            expected,
            "one file each"
        );
        assert_eq!(verify(&[lists.iter().copied().cloned().collect()]), expected, "in one file");
    }
}
