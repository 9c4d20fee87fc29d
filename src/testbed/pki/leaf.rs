//! The contents of a leaf certificate.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::string::TeletexString;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType, SerialNumber,
};

use super::{DAY, HOUR};

/// The contents of a leaf certificate. [`Leaf::client`] and [`Leaf::server`] are valid ones; the
/// other methods modify them.
#[derive(Clone, Debug)]
pub struct Leaf {
    common_name: Option<DnValue>,
    second_common_name: Option<String>,
    organization: Option<String>,
    names: Vec<Name>,
    validity: Validity,
    usage: Usage,
    serial: Option<u64>,
    extensions: Vec<CustomExtension>,
}

#[derive(Clone, Debug)]
enum Name {
    Dns(String),
    Ip(IpAddr),
    Uri(String),
}

/// The validity period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// From one hour ago for one day.
    Current,
    /// Ended one hour ago.
    Expired,
    /// Begins in one hour.
    NotYet,
    /// From one hour ago until this long from now.
    For(Duration),
}

/// The extended key usage (RFC 5280, 4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// `clientAuth`
    Client,
    /// `serverAuth`
    Server,
    /// Both. A server certificate of etcd needs this, because members are clients, too.
    Both,
    /// `codeSigning`, neither of them.
    Neither,
}

impl Leaf {
    /// A client certificate.
    #[must_use]
    pub fn client(common_name: &str) -> Self {
        Self {
            common_name: Some(common_name.into()),
            second_common_name: None,
            organization: None,
            names: Vec::new(),
            validity: Validity::Current,
            usage: Usage::Client,
            serial: None,
            extensions: Vec::new(),
        }
    }

    /// A server certificate. Names that parse as IP addresses become addresses.
    #[must_use]
    pub fn server(names: &[&str]) -> Self {
        let name =
            |name: &&str| name.parse().map_or_else(|_| Name::Dns((*name).to_owned()), Name::Ip);
        Self {
            names: names.iter().map(name).collect(),
            usage: Usage::Server,
            ..Self::client(names.first().copied().unwrap_or("server"))
        }
    }

    /// Removes the common name.
    #[must_use]
    pub fn without_common_name(mut self) -> Self {
        self.common_name = None;
        self
    }

    /// Adds a second common name after the first.
    #[must_use]
    pub fn second_common_name(mut self, name: &str) -> Self {
        self.second_common_name = Some(name.to_owned());
        self
    }

    /// Encodes the common name as TeletexString (T.61), whose interpretation is ambiguous.
    ///
    /// # Errors
    /// T.61 cannot represent the name.
    pub fn teletex_common_name(mut self, name: &str) -> Result<Self, rcgen::Error> {
        self.common_name = Some(DnValue::TeletexString(TeletexString::try_from(name)?));
        Ok(self)
    }

    /// Sets the subject's O.
    #[must_use]
    pub fn organization(mut self, name: &str) -> Self {
        self.organization = Some(name.to_owned());
        self
    }

    /// Adds a DNS name.
    #[must_use]
    pub fn dns(mut self, name: &str) -> Self {
        self.names.push(Name::Dns(name.to_owned()));
        self
    }

    /// Adds a URI, such as a SPIFFE id.
    #[must_use]
    pub fn uri(mut self, uri: &str) -> Self {
        self.names.push(Name::Uri(uri.to_owned()));
        self
    }

    /// Sets the validity period.
    #[must_use]
    pub fn validity(mut self, validity: Validity) -> Self {
        self.validity = validity;
        self
    }

    /// Sets the extended key usage.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }

    /// Sets the serial number; the default is random.
    #[must_use]
    pub fn serial(mut self, serial: u64) -> Self {
        self.serial = Some(serial);
        self
    }

    /// Adds an unknown extension, number `number` below an unassigned object identifier.
    #[must_use]
    pub fn extension(mut self, number: u64, content: Vec<u8>, critical: bool) -> Self {
        let mut extension =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 4_294_967_295, number], content);
        extension.set_criticality(critical);
        self.extensions.push(extension);
        self
    }

    pub(super) fn params(&self) -> Result<CertificateParams, rcgen::Error> {
        let now = SystemTime::now();
        let (from, to) = match self.validity {
            Validity::Current => (now - HOUR, now + DAY),
            Validity::Expired => (now - DAY, now - HOUR),
            Validity::NotYet => (now + HOUR, now + DAY),
            Validity::For(time) => (now - HOUR, now + time),
        };
        let mut params = CertificateParams::default();
        params.not_before = from.into();
        params.not_after = to.into();
        params.serial_number = self.serial.map(SerialNumber::from);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match self.usage {
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Both => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Usage::Neither => vec![ExtendedKeyUsagePurpose::CodeSigning],
        };
        params.distinguished_name = self.subject();
        params.custom_extensions = self.extensions.clone();
        for name in &self.names {
            params.subject_alt_names.push(match name {
                Name::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                Name::Ip(address) => SanType::IpAddress(*address),
                Name::Uri(uri) => SanType::URI(uri.as_str().try_into()?),
            });
        }
        Ok(params)
    }

    fn subject(&self) -> DistinguishedName {
        let mut subject = DistinguishedName::new();
        if let Some(name) = &self.organization {
            subject.push(DnType::OrganizationName, name.as_str());
        }
        if let Some(name) = &self.common_name {
            subject.push(DnType::CommonName, name.clone());
        }
        if let Some(name) = &self.second_common_name {
            // Rcgen keeps one value per attribute type. Given as an object identifier, commonName
            // is a different type for it.
            subject.push(DnType::CustomDnType(vec![2, 5, 4, 3]), name.as_str());
        }
        subject
    }
}
