use std::fs;
use std::io;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber, date_time_ymd,
};
use rustls::{HandshakeKind, ProtocolVersion, SupportedProtocolVersion, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::config::{ClientCa, Downstream, Endpoint, Upstream};

type Ca = CertifiedIssuer<'static, KeyPair>;

/// A folder of files, and what makes them.
struct Pki {
    folder: TempDir,
}

/// A certificate with its key, PEM.
struct Leaf {
    chain: String,
    key: String,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn ca(name: &str) -> Ca {
    CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap()
}

fn leaf(issuer: &Ca, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "leaf");
    params.subject_alt_names = vec![
        SanType::DnsName("warden.test".try_into().unwrap()),
        SanType::IpAddress("127.0.0.1".parse().unwrap()),
    ];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.serial_number = Some(SerialNumber::from_slice(&[7]));
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Leaf { chain: params.signed_by(&key, issuer).unwrap().pem(), key: key.serialize_pem() }
}

/// A revocation list of this CA with these serial numbers, that ends in this year.
fn crl(issuer: &Ca, revoked: &[u8], year: i32) -> String {
    issued(issuer, revoked, (1, 2024), year)
}

/// A list of this number, of that year, that ends in another.
fn issued(issuer: &Ca, revoked: &[u8], (number, from): (u64, i32), year: i32) -> String {
    let revoked_certs = revoked.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&[*serial]),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(from, 1, 1),
        next_update: date_time_ymd(year, 1, 1),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().pem().unwrap()
}

impl Pki {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A listener whose certificate comes from the first of these CAs, and whose clients may come
    /// from all of them.
    fn downstream(&self, cas: &[(&str, &Ca)], crls: &[String]) -> Downstream {
        let server = leaf(cas[0].1, |_| {});
        Downstream {
            cert_file: self.write("server.crt", server.chain),
            key_file: self.write("server.key", server.key),
            client_cas: cas
                .iter()
                .map(|(name, ca)| ClientCa {
                    name: (*name).into(),
                    file: self.write(&format!("{name}.crt"), ca.pem()),
                })
                .collect(),
            crl_files: crls
                .iter()
                .enumerate()
                .map(|(index, crl)| self.write(&format!("{index}.crl"), crl))
                .collect(),
        }
    }

    fn upstream(&self, cacert: Option<PathBuf>, identity: Option<&Leaf>) -> Upstream {
        Upstream {
            endpoints: vec![Endpoint { tls: true, host: "warden.test".into(), port: 2379 }],
            identity: identity.map(|leaf| {
                (self.write("client.crt", &leaf.chain), self.write("client.key", &leaf.key))
            }),
            cacert,
            insecure_plaintext: false,
            pin: false,
            health_interval: std::time::Duration::from_secs(5),
        }
    }
}

/// A client that trusts this CA, shows this certificate, and speaks these versions and protocols.
#[expect(clippy::disallowed_methods, reason = "a client that the tests refuse")]
fn client(
    trusts: &Ca,
    shows: Option<&Leaf>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusts.der().clone()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shows {
        None => builder.with_no_client_auth(),
        Some(leaf) => builder
            .with_client_auth_cert(
                CertificateDer::pem_slice_iter(leaf.chain.as_bytes())
                    .collect::<Result<_, _>>()
                    .unwrap(),
                PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// What the server made of a connection.
struct Accepted {
    ca: Option<Arc<str>>,
    version: Option<ProtocolVersion>,
    alpn: Option<Vec<u8>>,
    kind: Option<HandshakeKind>,
}

/// One handshake, and a byte each way after it, so that TLS 1.3 clients see the server's verdict
/// too.
async fn connect(
    server: &ServerTls,
    client: Arc<rustls::ClientConfig>,
) -> Result<Accepted, HandshakeFailure> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let client = async move {
        let mut stream = TlsConnector::from(client)
            .connect(ServerName::try_from("warden.test").unwrap(), near)
            .await?;
        stream.write_all(b"?").await?;
        stream.read_u8().await
    };
    let server = async move {
        let mut stream = TlsAcceptor::from(server.rustls_config()).accept(far).await?;
        let (_, connection) = stream.get_ref();
        let accepted = Accepted {
            ca: server
                .trust()
                .verify(connection.peer_certificates().unwrap_or_default())
                .ok()
                .map(|proved| proved.ca),
            version: connection.protocol_version(),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            kind: connection.handshake_kind(),
        };
        stream.read_u8().await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        io::Result::Ok(accepted)
    };
    let (_, accepted) = tokio::join!(client, server);
    accepted.map_err(|error| handshake_failure(&error))
}

async fn verdict(
    server: &ServerTls,
    trusts: &Ca,
    shows: &Leaf,
) -> Result<Option<String>, HandshakeFailure> {
    let accepted =
        connect(server, client(trusts, Some(shows), rustls::ALL_VERSIONS, &[ALPN_H2])).await?;
    Ok(accepted.ca.map(|ca| ca.to_string()))
}

/// What bytes sent in place of a handshake are called.
async fn verdict_on_bytes(server: &ServerTls, bytes: &[u8]) -> HandshakeFailure {
    let (mut near, far) = tokio::io::duplex(1 << 16);
    near.write_all(bytes).await.unwrap();
    near.shutdown().await.unwrap();
    handshake_failure(&TlsAcceptor::from(server.rustls_config()).accept(far).await.err().unwrap())
}

#[tokio::test]
async fn a_client_of_the_ca_is_let_in_with_both_versions_and_h2() {
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
async fn each_client_that_may_not_come_in_is_named() {
    let (pki, ca, other) = (Pki::new(), ca("calico"), ca("other"));
    let server =
        ServerTls::load(&pki.downstream(&[("default", &ca)], &[crl(&ca, &[66], 2090)])).unwrap();
    for (shows, failure) in [
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
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
            }),
            HandshakeFailure::WrongKeyUsage,
        ),
        (
            leaf(&ca, |params| params.serial_number = Some(SerialNumber::from_slice(&[66]))),
            HandshakeFailure::Revoked,
        ),
    ] {
        for version in [&version::TLS12, &version::TLS13] {
            let seen =
                connect(&server, client(&ca, Some(&shows), &[version], &[ALPN_H2])).await.err();
            assert_eq!(seen, Some(failure));
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
        verdict(&server, &ca, &good).await,
        Ok(Some("default".into())),
        "the others did no harm"
    );
}

#[tokio::test]
async fn what_is_no_handshake_is_named() {
    let (pki, ca) = (Pki::new(), ca("calico"));
    let server = ServerTls::load(&pki.downstream(&[("default", &ca)], &[])).unwrap();
    for (bytes, failure) in [
        (&b"GET / HTTP/1.1\r\nHost: etcd\r\n\r\n"[..], HandshakeFailure::NotTls),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HandshakeFailure::NotTls),
        (b"", HandshakeFailure::Closed),
        (b"\x16\x03\x01\x02\x00\x01", HandshakeFailure::Closed),
    ] {
        assert_eq!(verdict_on_bytes(&server, bytes).await, failure, "{bytes:?}");
    }
    // ClientHellos with a version, one cipher suite (RC4), and perhaps `signature_algorithms`
    // (ecdsa_secp256r1_sha256).
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
        assert_eq!(verdict_on_bytes(&server, &hello).await, failure, "{hello:?}");
    }
    assert_eq!(handshake_failure(&io::ErrorKind::TimedOut.into()), HandshakeFailure::Timeout);
    assert_eq!(handshake_failure(&io::ErrorKind::NotFound.into()), HandshakeFailure::Other);
}

#[test]
fn the_codes_of_failures_differ() {
    let codes: std::collections::HashSet<_> =
        HandshakeFailure::ALL.iter().map(|failure| failure.code()).collect();
    assert_eq!(codes.len(), HandshakeFailure::ALL.len());
}

#[tokio::test]
async fn the_issuing_ca_is_the_one_that_signed_and_not_the_one_of_the_same_name() {
    let (pki, one, two) = (Pki::new(), ca("same name"), ca("same name"));
    let server =
        ServerTls::load(&pki.downstream(&[("calico", &one), ("kubernetes", &two)], &[])).unwrap();
    assert_eq!(verdict(&server, &one, &leaf(&one, |_| {})).await, Ok(Some("calico".into())));
    assert_eq!(verdict(&server, &one, &leaf(&two, |_| {})).await, Ok(Some("kubernetes".into())));

    let below =
        CertifiedIssuer::signed_by(ca_params("below"), KeyPair::generate().unwrap(), &two).unwrap();
    let mut through = leaf(&below, |_| {});
    assert_eq!(
        verdict(&server, &one, &through).await,
        Err(HandshakeFailure::UnknownCa),
        "the intermediate is missing"
    );
    through.chain += &below.pem();
    assert_eq!(verdict(&server, &one, &through).await, Ok(Some("kubernetes".into())));
    // A certificate that was sent along and has nothing to do with the path does not count.
    through.chain += &one.pem();
    assert_eq!(verdict(&server, &one, &through).await, Ok(Some("kubernetes".into())));
    assert_eq!(server.trust().verify(&[]), Err(HandshakeFailure::NoCertificate));
}

#[tokio::test]
async fn a_session_is_never_resumed_so_that_it_cannot_outlive_a_revocation() {
    let (pki, ca) = (Pki::new(), ca("calico"));
    let server = ServerTls::load(&pki.downstream(&[("default", &ca)], &[])).unwrap();
    let node = leaf(&ca, |_| {});
    for version in [&version::TLS12, &version::TLS13] {
        // The client keeps what it is given: the same configuration connects twice.
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
async fn with_revocation_lists_an_issuer_without_one_is_refused() {
    let (pki, root) = (Pki::new(), ca("root"));
    let below = CertifiedIssuer::signed_by(ca_params("below"), KeyPair::generate().unwrap(), &root)
        .unwrap();
    let mut node = leaf(&below, |_| {});
    node.chain += &below.pem();
    let without =
        ServerTls::load(&pki.downstream(&[("default", &root)], &[crl(&root, &[], 2090)])).unwrap();
    assert_eq!(verdict(&without, &root, &node).await, Err(HandshakeFailure::NoRevocationList));
    let both = [crl(&root, &[], 2090) + &crl(&below, &[], 2090)];
    let with = ServerTls::load(&pki.downstream(&[("default", &root)], &both)).unwrap();
    assert_eq!(verdict(&with, &root, &node).await, Ok(Some("default".into())));
}

#[tokio::test]
async fn the_way_to_etcd_shows_the_own_certificate_and_trusts_cacert_alone() {
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
    let ends: Vec<_> = trusting.expiries().iter().map(|expiry| expiry.what).collect();
    assert_eq!(ends, [Expiring::UpstreamCa, Expiring::UpstreamClient]);

    let wrong =
        ClientTls::load(&pki.upstream(Some(pki.write("other.crt", other.pem())), Some(&own)))
            .unwrap()
            .unwrap();
    assert_eq!(
        connect(&server, wrong.rustls_config()).await.err(),
        Some(HandshakeFailure::RefusedByClient)
    );
    let nameless = ClientTls::load(&pki.upstream(Some(pki.write("etcd.crt", etcd.pem())), None))
        .unwrap()
        .unwrap();
    assert_eq!(
        connect(&server, nameless.rustls_config()).await.err(),
        Some(HandshakeFailure::NoCertificate)
    );
}

#[test]
fn plain_text_endpoints_need_no_tls() {
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
fn expiries_are_those_of_the_files() {
    let (pki, ca) = (Pki::new(), ca("calico"));
    let tls =
        ServerTls::load(&pki.downstream(&[("default", &ca)], &[crl(&ca, &[], 2090)])).unwrap();
    let ends: Vec<_> = tls.expiries().map(|expiry| expiry.what).collect();
    assert_eq!(ends, [Expiring::Server, Expiring::ClientCa, Expiring::Crl]);
    let crl_end = tls.expiries().nth(2).unwrap().not_after;
    assert_eq!(humantime::format_rfc3339_seconds(crl_end).to_string(), "2090-01-01T00:00:00Z");
}

mod authority;
mod files;
mod refused;
mod revocation;
