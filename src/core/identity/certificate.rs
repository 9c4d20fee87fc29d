//! From the DER of a verified leaf to an [`Identity`].
//!
//! Two programs that read one certificate must see one name. So the CN is taken only where there is
//! a single way to read it, and every other certificate is refused by name.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use x509_parser::asn1_rs::{Class, Tag};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_EXT_SUBJECT_ALT_NAME};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

use super::{Identity, NameRefusal};

impl Identity {
    /// Reads the leaf of a chain that TLS has verified up to the CA that is configured as `ca`.
    ///
    /// Never fails: a certificate that cannot be read is an identity without any name. O values
    /// that would be refused as a CN are left out, and so are SANs that are not text: nothing
    /// can match what cannot be read.
    #[must_use]
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
        // Over before it began: whoever looks at the date alone refuses it too.
        // TLS has read it, and would not have taken a certificate that has ended.
        not_after: i64::MAX,
    }
}

/// The one CN. All relative distinguished names count, and all values of each.
fn common_name(certificate: &X509Certificate<'_>) -> Result<Arc<str>, NameRefusal> {
    let mut names = certificate.subject().iter_common_name();
    match (names.next(), names.next()) {
        (None, _) => Err(NameRefusal::Missing),
        (Some(_), Some(_)) => Err(NameRefusal::Several),
        (Some(name), None) => text(name).map(Arc::from),
    }
}

/// A value of the subject as text.
///
/// `UTF8String` as it is; `PrintableString`, `IA5String` and `NumericString` when they are ASCII,
/// as they have to be (the characters that `PrintableString` lacks, `*` and `@` among them, are
/// common in it and are read alike by everyone). `TeletexString`, `BMPString` and `UniversalString`
/// have other encodings that programs disagree about.
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

/// Characters that are no control characters to Unicode (its category Cc) and still make a line
/// show something else than it holds: line separators, direction marks (UAX #9), and those of no
/// width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// URI and DNS names; an error when the extension is there and cannot be read, or is there twice.
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

/// See [`Identity::distinction`].
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

/// Without the zero byte that DER puts before a number whose first bit is set.
fn hexadecimal(serial: &[u8]) -> String {
    let digits = match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        _ => serial,
    };
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
