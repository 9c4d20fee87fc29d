//! Who is calling: what the leaf of a **verified** chain says, and nothing else.

mod certificate;

use std::fmt;
use std::sync::Arc;

/// What a client's certificate says about it. Made once per connection, from the leaf of a chain
/// that TLS has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The configured name of the client CA that the chain ends in.
    pub ca: Arc<str>,
    /// The subject's Common Name, or why it cannot be used.
    pub common_name: Result<Arc<str>, NameRefusal>,
    /// URI subject alternative names (SPIFFE ids among them), in the certificate's order.
    pub uri_sans: Vec<String>,
    /// DNS subject alternative names, in the certificate's order.
    pub dns_sans: Vec<String>,
    /// The subject's O values, in the certificate's order.
    pub organizations: Vec<String>,
    /// What tells it from others with the same O: 16 hexadecimal digits over its subject and all
    /// of its subject alternative names, where it has any name besides a CN and one O.
    pub distinction: Option<String>,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// The issuer's distinguished name (RFC 4514 order as x509-parser prints it).
    pub issuer: String,
    /// End of validity, in seconds since 1970 (UTC). Of a connection's identity: of the first
    /// certificate of its path that ends.
    pub not_after: i64,
}

#[cfg(any(test, feature = "model"))]
impl Identity {
    /// Of the CA `default`, with this CN alone.
    #[must_use]
    pub fn named(common_name: &str) -> Self {
        Self {
            ca: "default".into(),
            common_name: Ok(common_name.into()),
            uri_sans: Vec::new(),
            dns_sans: Vec::new(),
            organizations: Vec::new(),
            distinction: None,
            serial: "01".to_owned(),
            issuer: "CN=test".to_owned(),
            not_after: i64::MAX,
        }
    }
}

/// Why a certificate gives no usable name. Each has a name of its own in the audit (see
/// [`NameRefusal::code`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameRefusal {
    /// The subject has no CN. A binding on a SAN or on O may still match.
    Missing,
    /// The subject has more than one CN: which one counts would be a guess.
    Several,
    /// The CN is empty.
    Empty,
    /// The CN holds a NUL: another program may read only what stands before it.
    Nul,
    /// The CN holds a control character.
    Control,
    /// The CN is not UTF-8, or of a string type that has no certain reading as UTF-8.
    NotUtf8,
    /// The certificate could not be read a second time by x509-parser, though TLS took it.
    Unreadable,
}

impl NameRefusal {
    /// The stable name in audit lines.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            NameRefusal::Missing => "cn-missing",
            NameRefusal::Several => "cn-several",
            NameRefusal::Empty => "cn-empty",
            NameRefusal::Nul => "cn-nul",
            NameRefusal::Control => "cn-control-character",
            NameRefusal::NotUtf8 => "cn-not-utf8",
            NameRefusal::Unreadable => "certificate-unreadable",
        }
    }

    /// Whether the certificate as a whole may still be used through its other names. Only an absent
    /// CN is harmless: every other case is a certificate that two programs may read
    /// differently.
    #[must_use]
    pub const fn leaves_other_names(self) -> bool {
        matches!(self, NameRefusal::Missing)
    }
}

impl fmt::Display for NameRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameRefusal::Missing => "the certificate's subject has no common name",
            NameRefusal::Several => "the certificate's subject has more than one common name",
            NameRefusal::Empty => "the certificate's common name is empty",
            NameRefusal::Nul => "the certificate's common name holds a NUL",
            NameRefusal::Control => "the certificate's common name holds a control character",
            NameRefusal::NotUtf8 => "the certificate's common name is not UTF-8",
            NameRefusal::Unreadable => "the certificate cannot be read",
        })
    }
}
