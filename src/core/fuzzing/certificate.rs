//! The names in a leaf: the parser never panics, and it reads every name that webpki reads.

use rustls_pki_types::CertificateDer;

use crate::identity::{Identity, NameRefusal};

/// Input: a leaf in DER.
pub fn run(leaf: &[u8]) {
    let identity = Identity::from_certificate(leaf, "calico".into());
    assert_eq!(identity, Identity::from_certificate(leaf, "calico".into()));
    assert_eq!(&*identity.ca, "calico");
    let names = identity
        .common_name
        .iter()
        .map(|name| &**name)
        .chain(identity.organizations.iter().map(String::as_str));
    for name in names {
        assert!(!name.is_empty() && !name.contains(char::is_control), "{name:?}");
    }
    if identity.common_name == Err(NameRefusal::Unreadable) {
        assert!(
            identity.uri_sans.is_empty()
                && identity.dns_sans.is_empty()
                && identity.organizations.is_empty()
        );
        return;
    }
    assert!(identity.serial.bytes().all(|digit| digit.is_ascii_hexdigit()));
    compare_with_webpki(leaf, &identity);
    // With a trailing byte it is not a certificate.
    let longer = [leaf, &[0]].concat();
    assert_eq!(
        Identity::from_certificate(&longer, "calico".into()).common_name,
        Err(NameRefusal::Unreadable)
    );
}

/// TLS verifies the chain with webpki, which must read the same certificate.
fn compare_with_webpki(leaf: &[u8], identity: &Identity) {
    let der = CertificateDer::from(leaf);
    let Ok(theirs) = webpki::EndEntityCert::try_from(&der) else { return };
    for name in theirs.valid_dns_names() {
        assert!(
            identity.dns_sans.iter().any(|ours| ours == name),
            "webpki reads {name}, we read {:?}",
            identity.dns_sans
        );
    }
    for name in theirs.valid_uri_names() {
        assert!(
            identity.uri_sans.iter().any(|ours| ours == name),
            "webpki reads {name}, we read {:?}",
            identity.uri_sans
        );
    }
    let serial: String = theirs.serial().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(serial.trim_start_matches('0'), identity.serial.trim_start_matches('0'));
}
