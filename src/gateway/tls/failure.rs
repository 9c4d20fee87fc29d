//! Why a client's handshake failed: a closed list for metrics and logs.

use std::io;
use std::sync::Arc;

use rustls::{
    AlertDescription, CertRevocationListError, CertificateError, Error, InvalidMessage, OtherError,
    PeerIncompatible,
};

use crate::proxy_protocol;

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HandshakeFailure {
    /// The client showed no certificate.
    NoCertificate,
    /// No configured CA issued its certificate.
    UnknownCa,
    /// Its certificate has expired.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Its certificate is not for client authentication.
    WrongKeyUsage,
    /// Its certificate is revoked.
    Revoked,
    /// No revocation list speaks for its issuer.
    NoRevocationList,
    /// The revocation list of its issuer has ended.
    RevocationListExpired,
    /// Its certificate, or the proof that it has the key, is malformed or of an unsupported sort.
    BadCertificate,
    /// It asked by ALPN for protocols other than `h2`.
    NoCommonAlpn,
    /// What it sent is not TLS: plain text HTTP, or a scan.
    NotTls,
    /// It speaks neither TLS 1.2 nor TLS 1.3.
    ProtocolVersion,
    /// It has no cipher suite, group or signature scheme in common with the proxy.
    NothingInCommon,
    /// The client refused: it does not trust the proxy's certificate, or the name in it.
    RefusedByClient,
    /// It had to begin with a PROXY protocol header (version 2), and did not.
    ProxyProtocol,
    /// It did not finish within `handshake-timeout`.
    Timeout,
    /// It closed the connection.
    Closed,
    /// Anything else.
    Other,
}

impl HandshakeFailure {
    /// All of them.
    pub const ALL: [HandshakeFailure; 18] = [
        HandshakeFailure::NoCertificate,
        HandshakeFailure::UnknownCa,
        HandshakeFailure::Expired,
        HandshakeFailure::NotYetValid,
        HandshakeFailure::WrongKeyUsage,
        HandshakeFailure::Revoked,
        HandshakeFailure::NoRevocationList,
        HandshakeFailure::RevocationListExpired,
        HandshakeFailure::BadCertificate,
        HandshakeFailure::NoCommonAlpn,
        HandshakeFailure::NotTls,
        HandshakeFailure::ProtocolVersion,
        HandshakeFailure::NothingInCommon,
        HandshakeFailure::RefusedByClient,
        HandshakeFailure::ProxyProtocol,
        HandshakeFailure::Timeout,
        HandshakeFailure::Closed,
        HandshakeFailure::Other,
    ];

    /// What is most likely wrong, and what to do; empty where the error of TLS says it.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            HandshakeFailure::NoCommonAlpn => {
                "it speaks HTTP/1.1, or did not ask for `h2` by ALPN: this port is for gRPC, as etcdctl and clientv3 speak it; health and metrics \
                 are at `admin-addr`, and etcd's JSON gateway is not served"
            }
            HandshakeFailure::NotTls => {
                "it speaks plain text: write `https://` into its list of endpoints, and give it a certificate"
            }
            HandshakeFailure::NoCertificate => {
                "give it a certificate and key of a CA in `trusted-ca-file`, such as --cert and --key of etcdctl"
            }
            _ => "",
        }
    }

    /// The stable name in metrics and logs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            HandshakeFailure::NoCertificate => "no_certificate",
            HandshakeFailure::UnknownCa => "unknown_ca",
            HandshakeFailure::Expired => "expired",
            HandshakeFailure::NotYetValid => "not_yet_valid",
            HandshakeFailure::WrongKeyUsage => "wrong_key_usage",
            HandshakeFailure::Revoked => "revoked",
            HandshakeFailure::NoRevocationList => "no_crl",
            HandshakeFailure::RevocationListExpired => "crl_expired",
            HandshakeFailure::BadCertificate => "bad_certificate",
            HandshakeFailure::NoCommonAlpn => "no_common_alpn",
            HandshakeFailure::NotTls => "not_tls",
            HandshakeFailure::ProtocolVersion => "protocol_version",
            HandshakeFailure::NothingInCommon => "nothing_in_common",
            HandshakeFailure::RefusedByClient => "refused_by_client",
            HandshakeFailure::ProxyProtocol => "proxy_protocol",
            HandshakeFailure::Timeout => "timeout",
            HandshakeFailure::Closed => "closed",
            HandshakeFailure::Other => "other",
        }
    }
}

/// What an error of [`proxy_protocol::read`] or of tokio-rustls' `accept` means. An elapsed
/// deadline is best given as [`io::ErrorKind::TimedOut`].
#[must_use]
pub fn handshake_failure(error: &io::Error) -> HandshakeFailure {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return of_tls(error);
    }
    if error.get_ref().is_some_and(|inner| inner.is::<proxy_protocol::Refusal>()) {
        return HandshakeFailure::ProxyProtocol;
    }
    match error.kind() {
        io::ErrorKind::TimedOut => HandshakeFailure::Timeout,
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => HandshakeFailure::Closed,
        _ => HandshakeFailure::Other,
    }
}

/// Whether an error of tokio-rustls' `connect` says that the server's certificate is not to be
/// trusted. Every other failure says nothing of who is there.
#[must_use]
pub fn distrusts(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(inner, Some(Error::InvalidCertificate(_)))
}

/// As rustls has it of its own verifiers (`webpki::pki_error`, which is private): what is named
/// here is what a peer is told by an alert of its own.
pub(super) fn of_webpki(error: webpki::Error) -> Error {
    use webpki::Error as Why;
    match error {
        Why::BadDer | Why::BadDerTime | Why::TrailingData(_) => {
            CertificateError::BadEncoding.into()
        }
        Why::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }.into()
        }
        Why::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }.into()
        }
        Why::InvalidCertValidity => CertificateError::Expired.into(),
        Why::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        Why::CertRevoked => CertificateError::Revoked.into(),
        Why::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus.into(),
        Why::CrlExpired { time, next_update } => {
            CertificateError::ExpiredRevocationListContext { time, next_update }.into()
        }
        Why::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose.into(),
        Why::InvalidSignatureForPublicKey => CertificateError::BadSignature.into(),
        Why::IssuerNotCrlSigner => CertRevocationListError::IssuerInvalidForCrl.into(),
        Why::InvalidCrlSignatureForPublicKey => CertRevocationListError::BadSignature.into(),
        other => CertificateError::Other(OtherError(Arc::new(other))).into(),
    }
}

/// What an error of rustls means.
pub(super) fn of_tls(error: &Error) -> HandshakeFailure {
    match error {
        Error::NoCertificatesPresented => HandshakeFailure::NoCertificate,
        Error::InvalidCertificate(error) => certificate(error),
        Error::InvalidCertRevocationList(_) => HandshakeFailure::NoRevocationList,
        Error::NoApplicationProtocol
        | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            HandshakeFailure::NoCommonAlpn
        }
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge,
        ) => HandshakeFailure::NotTls,
        Error::PeerIncompatible(
            // An extension that TLS 1.2 brought (RFC 5246, 7.4.1.4.1); rustls misses it before it
            // looks at the version.
            PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        )
        | Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            HandshakeFailure::ProtocolVersion
        }
        Error::PeerIncompatible(_) => HandshakeFailure::NothingInCommon,
        Error::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled) => {
            HandshakeFailure::Closed
        }
        Error::AlertReceived(_) => HandshakeFailure::RefusedByClient,
        _ => HandshakeFailure::Other,
    }
}

fn certificate(error: &CertificateError) -> HandshakeFailure {
    match error {
        CertificateError::UnknownIssuer => HandshakeFailure::UnknownCa,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            HandshakeFailure::Expired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            HandshakeFailure::NotYetValid
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            HandshakeFailure::WrongKeyUsage
        }
        CertificateError::Revoked => HandshakeFailure::Revoked,
        CertificateError::UnknownRevocationStatus => HandshakeFailure::NoRevocationList,
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            HandshakeFailure::RevocationListExpired
        }
        _ => HandshakeFailure::BadCertificate,
    }
}
