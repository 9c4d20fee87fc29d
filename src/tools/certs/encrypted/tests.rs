use super::*;

/// RFC 5958 and OpenSSL are tested with OpenSSL's own keys in `it::certs`.
#[test]
fn unencrypted_keys_are_read_in_every_supported_form() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let plain = pair.serialize_pem();
    assert!(
        matches!(private_key(plain.as_bytes()), Ok(PrivateKey::Plain(key)) if matches!(*key, PrivateKeyDer::Pkcs8(_)))
    );
    let twice = format!("{plain}{plain}");
    for (bytes, words) in [
        (twice.as_bytes(), "more than one"),
        (b"".as_slice(), "no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n".as_slice(), "incomplete"),
        (b"-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n".as_slice(), "DSA PRIVATE KEY"),
        (b"-----BEGIN RSA PRIVATE KEY-----\nDEK-Info: AES-256-CBC,XY\n\nAAAA\n-----END RSA PRIVATE KEY-----\n".as_slice(), "DEK-Info"),
    ] {
        match private_key(bytes) {
            Err((message, _)) => assert!(message.contains(words), "{message}"),
            Ok(_) => panic!("{words}"),
        }
    }
}

#[test]
fn an_unsupported_encryption_says_how_to_convert_the_key() {
    let (message, help) =
        legacy("RSA PRIVATE KEY", "DES-EDE3-CBC", &[0; 8], Vec::new(), b"x").err().unwrap();
    assert!(message.contains("DES-EDE3-CBC") && help.contains("openssl pkcs8"), "{message}");
    let (message, help) = pkcs8(b"\x30\x00", b"x").err().unwrap();
    assert!(message.contains("cannot be read") && help.contains("openssl pkcs8"), "{message}");
}

/// The vector of OpenSSL's `EVP_BytesToKey(EVP_aes_128_cbc(), EVP_md5(), salt, "secret", 6, 1)`:
/// `openssl enc -P -md md5`.
#[test]
fn the_legacy_form_derives_its_key_as_openssl_does() {
    let iv = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0, 0, 0, 0, 0, 0, 0, 0];
    let key: String =
        legacy_key(b"secret", &iv, 32).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(key, "5f772a83139a8d48ba45597c721ab6f2d37975c93f36a944cef01de4be7eb5d4");
}
