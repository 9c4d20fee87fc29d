use rcgen::{CertificateParams, KeyPair};

use super::*;

fn request(pair: &KeyPair) -> Vec<u8> {
    CertificateParams::new(vec!["x".to_owned()])
        .unwrap()
        .serialize_request(pair)
        .unwrap()
        .der()
        .to_vec()
}

fn pem(der: &[u8]) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der))
}

#[test]
fn the_key_of_a_verified_request_is_used() {
    use rcgen::PublicKeyData as _;
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(of_pem(pem(&request(&pair)).as_bytes()), Ok(pair.subject_public_key_info()));
    }
}

#[test]
fn a_modified_request_never_yields_another_key() {
    use rcgen::PublicKeyData as _;
    let pair = KeyPair::generate().unwrap();
    let der = request(&pair);
    let mut refused = 0;
    for at in 0..der.len() {
        let mut bent = der.clone();
        bent[at] ^= 1;
        match of_pem(pem(&bent).as_bytes()) {
            Ok(key) => assert_eq!(key, pair.subject_public_key_info(), "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    // Each signed byte is covered; outside of them, x509-parser does not check every tag.
    assert!(refused + 3 > der.len(), "{refused} of {}", der.len());
    assert!(of_pem(pem(&[der.as_slice(), b"\0"].concat()).as_bytes()).is_err());
}

#[test]
fn files_that_are_not_a_request_have_distinct_errors() {
    let one = pem(&request(&KeyPair::generate().unwrap()));
    let message = |text: &str| of_pem(text.as_bytes()).unwrap_err().0;
    assert!(message(&format!("{one}{one}")).contains("more than one"));
    assert!(message("").contains("no request"));
    assert!(message(&one.replace("CERTIFICATE REQUEST", "CERTIFICATE")).contains("no request"));
    assert!(message("-----BEGIN CERTIFICATE REQUEST-----\nAAAA").contains("cannot be read"));
}
