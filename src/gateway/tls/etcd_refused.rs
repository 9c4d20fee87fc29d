//! Why there is no connection to etcd, as a sentence that says what to do: the libraries' own words
//! are for those who wrote them.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

/// An error of a connection to etcd in words. Of a chain of errors that has nothing to do with TLS,
/// the last: it is the first that went wrong.
#[must_use]
pub fn in_words(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    loop {
        if let Some(words) =
            of_tls(last).or_else(|| last.downcast_ref::<io::Error>().and_then(of_io))
        {
            return words;
        }
        let Some(next) = last.source() else { return last.to_string() };
        last = next;
    }
}

fn of_io(error: &io::Error) -> Option<String> {
    let within = error.get_ref().and_then(in_chain);
    let closed = || {
        (error.kind() == io::ErrorKind::UnexpectedEof && error.to_string().contains("handshake"))
            .then(|| "the connection was closed in the TLS handshake: is it etcd's client port, and does it speak TLS?".to_owned())
    };
    within.or_else(closed)
}

/// An `io::Error` hides what it holds from `source`.
fn in_chain(error: &(dyn Error + Send + Sync + 'static)) -> Option<String> {
    of_tls(error).or_else(|| error.downcast_ref::<io::Error>().and_then(of_io))
}

fn of_tls(error: &(dyn Error + 'static)) -> Option<String> {
    let words = match error.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(error) => of_certificate(error),
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion | InvalidMessage::MessageTooLarge,
        ) => "what answers there does not speak TLS: write the endpoint as `http://` (and see `insecure-plaintext-upstream`), or give etcd a \
              certificate (`--cert-file`)"
            .to_owned(),
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => "etcd asks for a client certificate: set `cert` and `key`".to_owned(),
            AlertDescription::HandshakeFailure => "etcd and the proxy have no cipher suite or kind of key in common (a P-224 key is none that is \
                                                   taken here): docs/certificates.md"
                .to_owned(),
            AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked => {
                format!("etcd refuses the proxy's own certificate (`cert`), with the alert {alert:?}: it has to come from etcd's `--trusted-ca-file`")
            }
            other => format!("etcd ended the TLS handshake with the alert {other:?}"),
        },
        other => format!("TLS: {other}"),
    };
    Some(words)
}

fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "etcd's certificate is not trusted: no CA in `cacert` has issued it. Give the CA that has".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("etcd's certificate, or the CA that issued it, has expired ({error})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("etcd's certificate is not valid yet: look at both clocks ({error})")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "etcd's certificate is not for the host of this endpoint: write a host that it names, or issue one that names this ({error})"
            )
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "etcd's certificate is not for a server: its extended key usage lacks `serverAuth`".to_owned()
        }
        CertificateError::BadSignature => {
            "a signature of etcd's is not good: its certificate is not of the CA in `cacert` that has its issuer's \
                                           name, or its key is too small (RSA of less than 2048 bits is not taken here)"
                .to_owned()
        }
        CertificateError::Other(other) if other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity) => {
            "etcd's own certificate is a CA's (`CA:TRUE`, as `openssl req -x509` makes it), which is not taken for a server's here: \
             issue etcd a certificate of a CA, with `CA:FALSE` in it, and give that CA as `cacert`"
                .to_owned()
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(error) => format!("etcd's certificate is refused ({error}): docs/certificates.md lists what is"),
            None => format!("etcd's certificate is refused: {error}"),
        },
        other => format!("etcd's certificate is refused: {other}"),
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
    fn an_error_of_tls_is_found_however_deep_it_is() {
        let of = |error: rustls::Error| {
            in_words(&Outer(io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error))))
        };
        let ca = CertificateError::Other(OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity)));
        assert!(of(ca.into()).starts_with("etcd's own certificate is a CA's"));
        assert!(
            of(CertificateError::UnknownIssuer.into()).contains("no CA in `cacert` has issued it")
        );
        assert!(of(InvalidMessage::InvalidContentType.into()).contains("does not speak TLS"));
        assert!(
            of(rustls::Error::AlertReceived(AlertDescription::UnknownCA))
                .contains("refuses the proxy's own certificate")
        );
    }

    #[test]
    fn of_other_errors_the_first_that_went_wrong_is_named() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(in_words(&Outer(refused)), "connection refused");
        let closed = io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof");
        assert!(in_words(&Outer(closed)).contains("closed in the TLS handshake"));
    }
}
