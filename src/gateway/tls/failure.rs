//! Why a client's TLS handshake failed: a closed list for metrics and logs.

use std::io;
use std::sync::Arc;

use rustls::{
    AlertDescription, CertRevocationListError, CertificateError, Error, InvalidMessage, OtherError,
    PeerIncompatible,
};

use crate::proxy_protocol;

/// Why a handshake with a client failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HandshakeFailure {
    /// The client sent no certificate.
    NoCertificate,
    /// No configured CA issued its certificate.
    UnknownCa,
    /// Its certificate, or the CA that issued it, has expired.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Its certificate is not for client authentication.
    WrongKeyUsage,
    /// Its certificate is revoked.
    Revoked,
    /// There is no revocation list of its issuer.
    NoRevocationList,
    /// The revocation list of its issuer has expired.
    RevocationListExpired,
    /// It sent more certificates beside its own than the gateway checks.
    ChainTooLong,
    /// Its certificate or its signature is invalid, malformed or of an unsupported type.
    BadCertificate,
    /// It offered ALPN protocols, but not `h2`.
    NoCommonAlpn,
    /// It does not use TLS, but for example plain-text HTTP.
    NotTls,
    /// It supports neither TLS 1.2 nor TLS 1.3.
    ProtocolVersion,
    /// It has no cipher suite, group or signature scheme in common with the gateway.
    NothingInCommon,
    /// The client rejected the gateway's certificate: untrusted CA, or another name.
    RefusedByClient,
    /// It had to send a PROXY protocol header (version 2) and did not.
    ProxyProtocol,
    /// It did not finish within `handshake-timeout`.
    Timeout,
    /// It closed the connection.
    Closed,
    /// Anything else.
    Other,
}

impl HandshakeFailure {
    /// All failures.
    pub const ALL: [HandshakeFailure; 19] = [
        HandshakeFailure::NoCertificate,
        HandshakeFailure::UnknownCa,
        HandshakeFailure::Expired,
        HandshakeFailure::NotYetValid,
        HandshakeFailure::WrongKeyUsage,
        HandshakeFailure::Revoked,
        HandshakeFailure::NoRevocationList,
        HandshakeFailure::RevocationListExpired,
        HandshakeFailure::ChainTooLong,
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

    /// Likely cause and remedy; empty if the TLS error is clear enough.
    pub(crate) const fn hint(self) -> &'static str {
        match self {
            HandshakeFailure::NoCommonAlpn => {
                "the client uses HTTP/1.1, or did not offer `h2` by ALPN: this port serves gRPC, \
                 as etcdctl and clientv3 use it; health and metrics are at `admin-addr`, and \
                 etcd's JSON gateway is not supported"
            }
            HandshakeFailure::NotTls => {
                "the client does not use TLS: write its endpoints with `https://`, and give it a \
                 certificate"
            }
            HandshakeFailure::NoCertificate => {
                "give the client a certificate and key from a CA in `trusted-ca-file`, such as \
                 --cert and --key of etcdctl"
            }
            HandshakeFailure::ChainTooLong => {
                "send the client's certificate and the intermediate CAs that lead to a CA in \
                 `trusted-ca-file`, at most 5, and no bundle of other CAs"
            }
            _ => "",
        }
    }

    /// Name in metrics and logs; it does not change between versions.
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
            HandshakeFailure::ChainTooLong => "chain_too_long",
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

/// Classifies an error of [`proxy_protocol::read`] or of tokio-rustls' `accept`. Pass a timeout as
/// [`io::ErrorKind::TimedOut`].
pub fn handshake_failure(error: &io::Error) -> HandshakeFailure {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return from_rustls_error(error);
    }
    if error.get_ref().is_some_and(|inner| inner.is::<proxy_protocol::HeaderError>()) {
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

/// True if an error of tokio-rustls' `connect` means that the server's certificate is not trusted.
/// No other error says anything about the identity of the server.
pub(crate) fn is_untrusted(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(inner, Some(Error::InvalidCertificate(_)))
}

/// Converts as rustls does for its own verifiers (`webpki::pki_error`, which is private). Errors
/// listed here are reported to the peer with a specific alert.
pub(super) fn to_rustls_error(error: webpki::Error) -> Error {
    use webpki::Error as Webpki;
    match error {
        Webpki::BadDer | Webpki::BadDerTime | Webpki::TrailingData(_) => {
            CertificateError::BadEncoding.into()
        }
        Webpki::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }.into()
        }
        Webpki::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }.into()
        }
        Webpki::InvalidCertValidity => CertificateError::Expired.into(),
        Webpki::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        Webpki::CertRevoked => CertificateError::Revoked.into(),
        Webpki::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus.into(),
        Webpki::CrlExpired { time, next_update } => {
            CertificateError::ExpiredRevocationListContext { time, next_update }.into()
        }
        Webpki::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose.into(),
        Webpki::InvalidSignatureForPublicKey => CertificateError::BadSignature.into(),
        Webpki::IssuerNotCrlSigner => CertRevocationListError::IssuerInvalidForCrl.into(),
        Webpki::InvalidCrlSignatureForPublicKey => CertRevocationListError::BadSignature.into(),
        other => CertificateError::Other(OtherError(Arc::new(other))).into(),
    }
}

/// Classifies an error of a handshake with a client.
pub(super) fn from_rustls_error(error: &Error) -> HandshakeFailure {
    match error {
        Error::NoCertificatesPresented => HandshakeFailure::NoCertificate,
        Error::InvalidCertificate(error) => from_certificate_error(error),
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
            // TLS 1.2 introduced this extension (RFC 5246, 7.4.1.4.1). rustls reports that it is
            // missing before it checks the version.
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

fn from_certificate_error(error: &CertificateError) -> HandshakeFailure {
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
        CertificateError::Other(OtherError(error)) if is_chain_too_long(error.as_ref()) => {
            HandshakeFailure::ChainTooLong
        }
        CertificateError::UnknownRevocationStatus => HandshakeFailure::NoRevocationList,
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            HandshakeFailure::RevocationListExpired
        }
        _ => HandshakeFailure::BadCertificate,
    }
}

/// True if path building was given up, or not begun, because of the number of certificates.
fn is_chain_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref::<webpki::Error>(),
        Some(
            webpki::Error::MaximumPathBuildCallsExceeded
                | webpki::Error::MaximumSignatureChecksExceeded
        )
    )
}
