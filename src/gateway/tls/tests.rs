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

/// A folder for certificate files.
struct Pki {
    folder: TempDir,
}

/// Serial number of all leaves that do not set another one.
const LEAF_SERIAL: u8 = 7;

/// A certificate and its key, PEM.
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
    params.serial_number = Some(SerialNumber::from_slice(&[LEAF_SERIAL]));
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Leaf { chain: params.signed_by(&key, issuer).unwrap().pem(), key: key.serialize_pem() }
}

fn der(leaf: &Leaf) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(leaf.chain.as_bytes()).unwrap()
}

/// A revocation list of this CA with these serial numbers, which expires at the start of `year`.
fn crl(issuer: &Ca, revoked: &[u8], year: i32) -> String {
    numbered_crl(issuer, revoked, (1, 2024), year)
}

/// As [`crl`], with a number and the year of `thisUpdate`.
fn numbered_crl(issuer: &Ca, revoked: &[u8], (number, from): (u64, i32), year: i32) -> String {
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

    /// A listener with a certificate of the first CA that accepts clients of all of them.
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

/// A client that trusts one CA, presents a certificate, and offers these versions and protocols.
#[expect(clippy::disallowed_methods, reason = "clients without a certificate are tested, too")]
fn client(
    trusted: &Ca,
    certificate: Option<&Leaf>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match certificate {
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

/// A connection as the server sees it.
struct ServerView {
    ca: Option<Arc<str>>,
    version: Option<ProtocolVersion>,
    alpn: Option<Vec<u8>>,
    kind: Option<HandshakeKind>,
}

/// One handshake and a byte in each direction, because a TLS 1.3 client learns only after its
/// handshake that the server rejected its certificate.
async fn connect(
    server: &ServerTls,
    client: Arc<rustls::ClientConfig>,
) -> Result<ServerView, HandshakeFailure> {
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
        let accepted = ServerView {
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

/// The name of the CA that accepted a client.
async fn accepted_by(
    server: &ServerTls,
    trusted: &Ca,
    certificate: &Leaf,
) -> Result<Option<String>, HandshakeFailure> {
    let accepted =
        connect(server, client(trusted, Some(certificate), rustls::ALL_VERSIONS, &[ALPN_H2]))
            .await?;
    Ok(accepted.ca.map(|ca| ca.to_string()))
}

/// The failure of bytes that are sent instead of a handshake.
async fn failure_of_bytes(server: &ServerTls, bytes: &[u8]) -> HandshakeFailure {
    let (mut near, far) = tokio::io::duplex(1 << 16);
    near.write_all(bytes).await.unwrap();
    near.shutdown().await.unwrap();
    handshake_failure(&TlsAcceptor::from(server.rustls_config()).accept(far).await.err().unwrap())
}

mod authority;
mod files;
mod handshakes;
mod refused;
mod reload;
mod revocation;
