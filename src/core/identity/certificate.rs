//! Parses the DER of a verified leaf into an [`Identity`].
//!
//! Two programs that read one certificate must see the same name. So a CN is used only if there is
//! a single way to read it. Every other certificate gets a [`NameRefusal`].

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use x509_parser::asn1_rs::{Class, Tag};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_EXT_SUBJECT_ALT_NAME};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

use super::{Identity, NameRefusal};

impl Identity {
    /// Parses the leaf of a chain that TLS has verified up to the client CA configured as `ca`.
    ///
    /// Never fails: a certificate that cannot be parsed gives an identity without names. O values
    /// that would be refused as a CN are ignored, and so are SANs that are not text.
    pub fn from_certificate(leaf: &[u8], ca: Arc<str>) -> Self {
        match X509Certificate::from_der(leaf) {
            Ok(([], certificate)) => read(&certificate, ca),
            _ => unreadable(ca),
        }
    }
}

fn read(certificate: &X509Certificate<'_>, ca: Arc<str>) -> Identity {
    let Ok((uri_sans, dns_sans)) = alternative_names(certificate) else { return unreadable(ca) };
    Identity {
        ca,
        common_name: common_name(certificate),
        uri_sans,
        dns_sans,
        organizations: certificate
            .subject()
            .iter_organization()
            .filter_map(|value| text(value).ok())
            .map(str::to_owned)
            .collect(),
        distinction: distinction(certificate),
        serial: hexadecimal(certificate.raw_serial()),
        issuer: certificate.issuer().to_string(),
        not_after: certificate.validity().not_after.timestamp(),
    }
}

fn unreadable(ca: Arc<str>) -> Identity {
    Identity {
        ca,
        common_name: Err(NameRefusal::Unreadable),
        uri_sans: Vec::new(),
        dns_sans: Vec::new(),
        organizations: Vec::new(),
        distinction: None,
        serial: String::new(),
        issuer: String::new(),
        // TLS has parsed the certificate and accepts none that has expired.
        not_after: i64::MAX,
    }
}

/// The only CN. The values of all relative distinguished names count.
fn common_name(certificate: &X509Certificate<'_>) -> Result<Arc<str>, NameRefusal> {
    let mut names = certificate.subject().iter_common_name();
    match (names.next(), names.next()) {
        (None, _) => Err(NameRefusal::Missing),
        (Some(_), Some(_)) => Err(NameRefusal::Several),
        (Some(name), None) => text(name).map(Arc::from),
    }
}

/// Decodes a value of the subject.
///
/// `UTF8String` as is. `PrintableString`, `IA5String` and `NumericString` if they are ASCII, as
/// they must be. `PrintableString` excludes some characters that are common in practice, `*` and
/// `@` among them; every program reads them the same way. `TeletexString`, `BMPString` and
/// `UniversalString` have other encodings, which programs decode differently.
fn text<'a>(value: &'a AttributeTypeAndValue<'_>) -> Result<&'a str, NameRefusal> {
    let any = value.attr_value();
    let text = std::str::from_utf8(any.data).map_err(|_| NameRefusal::NotUtf8)?;
    let certain = match any.tag() {
        Tag::Utf8String => true,
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString => text.is_ascii(),
        _ => false,
    };
    if !certain || any.class() != Class::Universal || any.header.is_constructed() {
        return Err(NameRefusal::NotUtf8);
    }
    match text {
        "" => Err(NameRefusal::Empty),
        _ if text.contains('\0') => Err(NameRefusal::Nul),
        _ if text.contains(|c: char| c.is_control() || is_invisible(c)) => {
            Err(NameRefusal::Control)
        }
        _ => Ok(text),
    }
}

/// True for characters outside of Unicode's category Cc that change how a line is displayed: line
/// separators, direction marks (UAX #9) and zero-width characters.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{2028}'
            | '\u{2029}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    )
}

/// URI and DNS names. An error if the extension is malformed or present twice.
fn alternative_names(certificate: &X509Certificate<'_>) -> Result<(Vec<String>, Vec<String>), ()> {
    let (mut uris, mut hosts) = (Vec::new(), Vec::new());
    let extension =
        certificate.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME).map_err(drop)?;
    match extension.map(x509_parser::extensions::X509Extension::parsed_extension) {
        None => {}
        Some(ParsedExtension::SubjectAlternativeName(names)) => {
            for name in &names.general_names {
                match name {
                    GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                    GeneralName::DNSName(host) => hosts.push((*host).to_owned()),
                    _ => {}
                }
            }
        }
        Some(_) => return Err(()),
    }
    Ok((uris, hosts))
}

/// Computes [`Identity::distinction`].
fn distinction(certificate: &X509Certificate<'_>) -> Option<String> {
    let subject = certificate.subject();
    let alternative = certificate
        .get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME)
        .ok()
        .flatten()
        .map(|extension| extension.value);
    let names = subject
        .iter_attributes()
        .filter(|attribute| *attribute.attr_type() != OID_X509_COMMON_NAME)
        .count();
    if names <= 1 && alternative.is_none() {
        return None;
    }
    let digest = Sha256::new()
        .chain_update(subject.as_raw())
        .chain_update(alternative.unwrap_or_default())
        .finalize();
    Some(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// Omits the zero byte that DER puts before a number whose first bit is set.
fn hexadecimal(serial: &[u8]) -> String {
    let digits = match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        _ => serial,
    };
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
