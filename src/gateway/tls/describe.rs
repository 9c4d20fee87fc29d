//! Errors of connections to etcd, as sentences that say what to do.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

/// Describes an error of a connection to etcd. If its chain of sources has a TLS error, that one is
/// described. Otherwise the last source, the root cause, is shown as it is.
pub(crate) fn describe_error(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    loop {
        if let Some(text) =
            of_tls(last).or_else(|| last.downcast_ref::<io::Error>().and_then(of_io))
        {
            return text;
        }
        let Some(next) = last.source() else { return last.to_string() };
        last = next;
    }
}

/// Describes an error of tokio-rustls' `connect`.
pub(crate) fn describe_handshake_error(error: &io::Error) -> String {
    match of_io(error) {
        Some(text) => text,
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the connection was closed during the TLS handshake: check that this is etcd's client \
             port and that it uses TLS"
                .to_owned()
        }
        None => describe_error(error),
    }
}

/// `source` of an [`io::Error`] skips the error that it wraps.
fn of_io(error: &io::Error) -> Option<String> {
    let wrapped = error.get_ref()?;
    of_tls(wrapped).or_else(|| wrapped.downcast_ref::<io::Error>().and_then(of_io))
}

fn of_tls(error: &(dyn Error + 'static)) -> Option<String> {
    Some(match error.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(error) => of_certificate(error),
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge,
        ) => "the endpoint does not use TLS: write it as `http://` (and see \
              `insecure-plaintext-upstream`), or configure TLS in etcd (`--cert-file`)"
            .to_owned(),
        rustls::Error::AlertReceived(alert) => of_alert(*alert),
        other => format!("TLS: {other}"),
    })
}

fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "etcd requires a client certificate: set `cert` and `key`".to_owned()
        }
        AlertDescription::HandshakeFailure => {
            "etcd and the gateway have no cipher suite or key type in common (P-224 keys are not \
             supported): see docs/certificates.md"
                .to_owned()
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnknownCA
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked => {
            format!(
                "etcd rejected the gateway's client certificate (`cert`) with the TLS alert \
                 {alert:?}: use one issued by a CA in etcd's `--trusted-ca-file`"
            )
        }
        other => format!("etcd ended the TLS handshake with the alert {other:?}"),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "etcd's certificate is not trusted: no CA in `cacert` issued it. Set `cacert` to the \
             CA that did"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("etcd's certificate, or the CA that issued it, has expired ({error})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("etcd's certificate is not valid yet: check the clocks of both hosts ({error})")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "etcd's certificate is not valid for the host of this endpoint: use a host that \
                 the certificate names, or issue one that names this host ({error})"
            )
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "etcd's certificate is not a server certificate: its extended key usage lacks \
             `serverAuth`"
                .to_owned()
        }
        CertificateError::BadSignature => {
            "invalid signature: etcd's certificate was not issued by the CA in `cacert` that has \
             its issuer's name, or its key is too small (RSA keys need 2048 bits or more)"
                .to_owned()
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "etcd's certificate is a CA certificate (`CA:TRUE`, as `openssl req -x509` makes \
                 it), which is not accepted for a server: issue etcd a certificate with \
                 `CA:FALSE`, and set `cacert` to the CA that issued it"
                    .to_owned()
            }
            Some(error) => {
                format!("etcd's certificate is rejected ({error}): see docs/certificates.md")
            }
            None => format!("etcd's certificate is rejected: {error}"),
        },
        other => format!("etcd's certificate is rejected: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::OtherError;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct Outer(#[source] io::Error);

    #[test]
    fn describes_a_tls_error_at_any_depth() {
        let describe = |error: rustls::Error| {
            let inner = io::Error::new(io::ErrorKind::InvalidData, error);
            describe_error(&Outer(io::Error::other(inner)))
        };
        let ca = CertificateError::Other(OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity)));
        assert!(describe(ca.into()).starts_with("etcd's certificate is a CA certificate"));
        assert!(
            describe(CertificateError::UnknownIssuer.into())
                .contains("no CA in `cacert` issued it")
        );
        assert!(describe(InvalidMessage::InvalidContentType.into()).contains("does not use TLS"));
        assert!(
            describe(rustls::Error::AlertReceived(AlertDescription::UnknownCA))
                .contains("rejected the gateway's client certificate")
        );
    }

    #[test]
    fn shows_the_root_cause_of_other_errors() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(describe_error(&Outer(refused)), "connection refused");
    }

    #[test]
    fn an_eof_in_the_handshake_is_recognised_by_its_kind() {
        let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "any text");
        assert!(describe_handshake_error(&closed()).contains("closed during the TLS handshake"));
        assert_eq!(describe_error(&Outer(closed())), "any text");
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(describe_handshake_error(&reset), "connection reset");
    }
}
