//! Handshakes: accepted clients, and a code for each failure.

use super::*;
use crate::tls::authority::MAX_INTERMEDIATES;

#[tokio::test]
async fn accepts_a_client_of_the_ca_with_tls_1_2_and_1_3() {
    let (pki, ca) = (Pki::new(), ca("calico"));
    let server = ServerTls::load(&pki.downstream(&[("default", &ca)], &[])).unwrap();
    let node = leaf(&ca, |_| {});
    for (version, expected) in
        [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let accepted =
            connect(&server, client(&ca, Some(&node), &[version], &[b"http/1.1", ALPN_H2]))
                .await
                .ok()
                .unwrap();
        assert_eq!(
            (accepted.version, accepted.alpn.as_deref(), accepted.ca.as_deref()),
            (Some(expected), Some(ALPN_H2), Some("default"))
        );
    }
}

#[tokio::test]
async fn each_rejected_client_has_its_failure() {
    let (pki, ca, other) = (Pki::new(), ca("calico"), ca("other"));
    let server =
        ServerTls::load(&pki.downstream(&[("default", &ca)], &[crl(&ca, &[66], 2090)])).unwrap();
    for (rejected, failure) in [
        (leaf(&other, |_| {}), HandshakeFailure::UnknownCa),
        (
            leaf(&ca, |params| params.not_after = date_time_ymd(2024, 1, 1)),
            HandshakeFailure::Expired,
        ),
        (
            leaf(&ca, |params| params.not_before = date_time_ymd(2090, 1, 1)),
            HandshakeFailure::NotYetValid,
        ),
        (
            leaf(&ca, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            HandshakeFailure::WrongKeyUsage,
        ),
        (
            leaf(&ca, |params| params.serial_number = Some(SerialNumber::from_slice(&[66]))),
            HandshakeFailure::Revoked,
        ),
    ] {
        for version in [&version::TLS12, &version::TLS13] {
            let found =
                connect(&server, client(&ca, Some(&rejected), &[version], &[ALPN_H2])).await.err();
            assert_eq!(found, Some(failure));
        }
    }
    let good = leaf(&ca, |_| {});
    let without = client(&ca, None, rustls::ALL_VERSIONS, &[ALPN_H2]);
    assert_eq!(connect(&server, without).await.err(), Some(HandshakeFailure::NoCertificate));
    let http1 = client(&ca, Some(&good), rustls::ALL_VERSIONS, &[b"http/1.1"]);
    assert_eq!(connect(&server, http1).await.err(), Some(HandshakeFailure::NoCommonAlpn));
    let distrustful = client(&other, Some(&good), rustls::ALL_VERSIONS, &[ALPN_H2]);
    assert_eq!(connect(&server, distrustful).await.err(), Some(HandshakeFailure::RefusedByClient));
    assert_eq!(
        accepted_by(&server, &ca, &good).await,
        Ok(Some("default".into())),
        "the server still accepts clients"
    );
}

#[tokio::test]
async fn each_invalid_handshake_has_its_failure() {
    let (pki, ca) = (Pki::new(), ca("calico"));
    let server = ServerTls::load(&pki.downstream(&[("default", &ca)], &[])).unwrap();
    for (bytes, failure) in [
        (&b"GET / HTTP/1.1\r\nHost: etcd\r\n\r\n"[..], HandshakeFailure::NotTls),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HandshakeFailure::NotTls),
        (b"", HandshakeFailure::Closed),
        (b"\x16\x03\x01\x02\x00\x01", HandshakeFailure::Closed),
    ] {
        assert_eq!(failure_of_bytes(&server, bytes).await, failure, "{bytes:?}");
    }
    // ClientHello messages with a version, one cipher suite (RC4), and optionally
    // `signature_algorithms` (ecdsa_secp256r1_sha256).
    let bare = |minor: u8| {
        [&[0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, minor][..], &[7; 32], &[0, 0, 2, 0, 5, 1, 0]].concat()
    };
    let signing = |minor: u8| {
        let extensions = [0, 10, 0, 13, 0, 6, 0, 4, 4, 3, 8, 4];
        [
            &[0x16, 3, 1, 0, 57, 1, 0, 0, 53, 3, minor][..],
            &[7; 32],
            &[0, 0, 2, 0, 5, 1, 0],
            &extensions,
        ]
        .concat()
    };
    for (hello, failure) in [
        (bare(2), HandshakeFailure::ProtocolVersion),
        (signing(2), HandshakeFailure::ProtocolVersion),
        (signing(3), HandshakeFailure::NothingInCommon),
    ] {
        assert_eq!(failure_of_bytes(&server, &hello).await, failure, "{hello:?}");
    }
    assert_eq!(handshake_failure(&io::ErrorKind::TimedOut.into()), HandshakeFailure::Timeout);
    assert_eq!(handshake_failure(&io::ErrorKind::NotFound.into()), HandshakeFailure::Other);
}

#[test]
fn each_failure_has_a_code_of_its_own() {
    let codes: std::collections::HashSet<_> =
        HandshakeFailure::ALL.iter().map(|failure| failure.code()).collect();
    assert_eq!(codes.len(), HandshakeFailure::ALL.len());
}

#[tokio::test]
async fn finds_the_issuing_ca_among_cas_with_the_same_name() {
    let (pki, one, two) = (Pki::new(), ca("same name"), ca("same name"));
    let server =
        ServerTls::load(&pki.downstream(&[("calico", &one), ("kubernetes", &two)], &[])).unwrap();
    assert_eq!(accepted_by(&server, &one, &leaf(&one, |_| {})).await, Ok(Some("calico".into())));
    assert_eq!(
        accepted_by(&server, &one, &leaf(&two, |_| {})).await,
        Ok(Some("kubernetes".into()))
    );

    let below =
        CertifiedIssuer::signed_by(ca_params("below"), KeyPair::generate().unwrap(), &two).unwrap();
    let mut through = leaf(&below, |_| {});
    assert_eq!(
        accepted_by(&server, &one, &through).await,
        Err(HandshakeFailure::UnknownCa),
        "without the intermediate"
    );
    through.chain += &below.pem();
    assert_eq!(accepted_by(&server, &one, &through).await, Ok(Some("kubernetes".into())));
    // An unrelated certificate in the chain has no effect.
    through.chain += &one.pem();
    assert_eq!(accepted_by(&server, &one, &through).await, Ok(Some("kubernetes".into())));
    assert_eq!(server.trust().verify(&[]), Err(HandshakeFailure::NoCertificate));
}

/// webpki would try each order of them: a chain of 200 took 20 seconds of a worker.
#[tokio::test]
async fn rejects_a_chain_with_too_many_certificates() {
    let (pki, ca) = (Pki::new(), ca("calico"));
    let server = ServerTls::load(&pki.downstream(&[("default", &ca)], &[])).unwrap();
    let mut node = leaf(&ca, |_| {});
    for _ in 0..MAX_INTERMEDIATES {
        node.chain += &ca.pem();
    }
    assert_eq!(accepted_by(&server, &ca, &node).await, Ok(Some("default".into())));
    node.chain += &ca.pem();
    assert_eq!(accepted_by(&server, &ca, &node).await, Err(HandshakeFailure::ChainTooLong));

    // A chain that no CA issued, in which each order of the intermediates is a path.
    let stranger = super::ca("stranger");
    let mut node = leaf(&stranger, |_| {});
    for _ in 0..100 {
        node.chain += &stranger.pem();
    }
    assert_eq!(accepted_by(&server, &ca, &node).await, Err(HandshakeFailure::ChainTooLong));
}

#[tokio::test]
async fn never_resumes_a_session() {
    let (pki, ca) = (Pki::new(), ca("calico"));
    let server = ServerTls::load(&pki.downstream(&[("default", &ca)], &[])).unwrap();
    let node = leaf(&ca, |_| {});
    for version in [&version::TLS12, &version::TLS13] {
        // A client configuration stores session tickets: the second connection could use one.
        let client = client(&ca, Some(&node), &[version], &[ALPN_H2]);
        for _ in 0..2 {
            let accepted = connect(&server, Arc::clone(&client)).await.ok().unwrap();
            assert!(
                matches!(
                    accepted.kind,
                    Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
                ),
                "{:?}",
                accepted.kind
            );
        }
    }
}

#[tokio::test]
async fn with_revocation_lists_each_issuer_needs_one() {
    let (pki, root) = (Pki::new(), ca("root"));
    let below = CertifiedIssuer::signed_by(ca_params("below"), KeyPair::generate().unwrap(), &root)
        .unwrap();
    let mut node = leaf(&below, |_| {});
    node.chain += &below.pem();
    let without =
        ServerTls::load(&pki.downstream(&[("default", &root)], &[crl(&root, &[], 2090)])).unwrap();
    assert_eq!(accepted_by(&without, &root, &node).await, Err(HandshakeFailure::NoRevocationList));
    let both = [crl(&root, &[], 2090) + &crl(&below, &[], 2090)];
    let with = ServerTls::load(&pki.downstream(&[("default", &root)], &both)).unwrap();
    assert_eq!(accepted_by(&with, &root, &node).await, Ok(Some("default".into())));
}

#[tokio::test]
async fn towards_etcd_trusts_cacert_only_and_presents_cert() {
    let (pki, etcd, other) = (Pki::new(), ca("etcd"), ca("other"));
    let server = ServerTls::load(&pki.downstream(&[("default", &etcd)], &[])).unwrap();
    let own = leaf(&etcd, |_| {});
    let endpoint = Endpoint { tls: true, host: "warden.test".into(), port: 2379 };
    assert_eq!(server_name(&endpoint).unwrap(), ServerName::try_from("warden.test").unwrap());

    let trusting =
        ClientTls::load(&pki.upstream(Some(pki.write("etcd.crt", etcd.pem())), Some(&own)))
            .unwrap()
            .unwrap();
    let accepted = connect(&server, trusting.rustls_config()).await.ok().unwrap();
    assert_eq!(accepted.alpn.as_deref(), Some(ALPN_H2));
    let expiries: Vec<_> = trusting.expiries().iter().map(|expiry| expiry.what).collect();
    assert_eq!(expiries, [Expiring::UpstreamCa, Expiring::UpstreamClient]);

    let wrong =
        ClientTls::load(&pki.upstream(Some(pki.write("other.crt", other.pem())), Some(&own)))
            .unwrap()
            .unwrap();
    assert_eq!(
        connect(&server, wrong.rustls_config()).await.err(),
        Some(HandshakeFailure::RefusedByClient)
    );
    let anonymous = ClientTls::load(&pki.upstream(Some(pki.write("etcd.crt", etcd.pem())), None))
        .unwrap()
        .unwrap();
    assert_eq!(
        connect(&server, anonymous.rustls_config()).await.err(),
        Some(HandshakeFailure::NoCertificate)
    );
}

#[test]
fn plain_text_endpoints_need_no_certificates() {
    let mut upstream = Pki::new().upstream(None, None);
    assert!(
        ClientTls::load(&upstream)
            .unwrap_err()
            .to_string()
            .contains("`https://` endpoint needs the CA")
    );
    upstream.endpoints[0].tls = false;
    assert!(ClientTls::load(&upstream).unwrap().is_none());
}

#[test]
fn lists_the_expiry_of_each_file() {
    let (pki, ca) = (Pki::new(), ca("calico"));
    let tls =
        ServerTls::load(&pki.downstream(&[("default", &ca)], &[crl(&ca, &[], 2090)])).unwrap();
    let expiries: Vec<_> = tls.expiries().map(|expiry| expiry.what).collect();
    assert_eq!(expiries, [Expiring::Server, Expiring::ClientCa, Expiring::Crl]);
    let crl_expiry = tls.expiries().nth(2).unwrap().not_after;
    assert_eq!(humantime::format_rfc3339_seconds(crl_expiry).to_string(), "2090-01-01T00:00:00Z");
}
