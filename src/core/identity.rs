//! The identity of a client: the names in the leaf of its **verified** certificate chain.

mod certificate;

use std::fmt;
use std::sync::Arc;

/// The names in a client's certificate. Created once per connection, from the leaf of a chain that
/// TLS has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The configured name of the client CA at the end of the chain.
    pub ca: Arc<str>,
    /// The subject's Common Name, or why it cannot be used.
    pub common_name: Result<Arc<str>, NameRefusal>,
    /// URI subject alternative names (SPIFFE ids among them), in the certificate's order.
    pub uri_sans: Vec<String>,
    /// DNS subject alternative names, in the certificate's order.
    pub dns_sans: Vec<String>,
    /// The subject's O values, in the certificate's order.
    pub organizations: Vec<String>,
    /// Distinguishes certificates with the same O: 16 hexadecimal digits of a SHA-256 over the
    /// subject and all subject alternative names. `None` if the certificate has no name besides a
    /// CN and one O.
    pub distinction: Option<String>,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// The issuer's distinguished name (RFC 4514 order as x509-parser prints it).
    pub issuer: String,
    /// End of validity in seconds since 1970 (UTC). For the identity of a connection: the earliest
    /// end of all certificates in its chain.
    pub not_after: i64,
}

#[cfg(any(test, feature = "model"))]
impl Identity {
    /// An identity of the CA `default` with this CN only.
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

/// Why a certificate has no usable name. Audit lines report the [`NameRefusal::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameRefusal {
    /// The subject has no CN. A binding on a SAN or on O may still match.
    Missing,
    /// The subject has more than one CN, so that the name is ambiguous.
    Several,
    /// The CN is empty.
    Empty,
    /// The CN contains a NUL. Other programs may stop reading there.
    Nul,
    /// The CN contains a control character.
    Control,
    /// The CN is not UTF-8, or of a string type that is not unambiguously UTF-8.
    NotUtf8,
    /// TLS accepted the certificate, but x509-parser cannot parse it.
    Unreadable,
}

impl NameRefusal {
    /// The stable name in audit lines.
    pub const fn code(self) -> &'static str {
        match self {
            NameRefusal::Missing => "cn_missing",
            NameRefusal::Several => "cn_several",
            NameRefusal::Empty => "cn_empty",
            NameRefusal::Nul => "cn_nul",
            NameRefusal::Control => "cn_control_character",
            NameRefusal::NotUtf8 => "cn_not_utf8",
            NameRefusal::Unreadable => "certificate_unreadable",
        }
    }

    /// True if the other names of the certificate may still be used. Only an absent CN is harmless.
    /// In every other case two programs may read the certificate differently.
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
            NameRefusal::Nul => "the certificate's common name contains a NUL",
            NameRefusal::Control => "the certificate's common name contains a control character",
            NameRefusal::NotUtf8 => "the certificate's common name is not UTF-8",
            NameRefusal::Unreadable => "the certificate cannot be read",
        })
    }
}
