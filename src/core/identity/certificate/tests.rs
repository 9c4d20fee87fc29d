use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType, SerialNumber};

use super::*;

/// A self-signed certificate. TLS checks signatures, not the parser.
fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn identity(leaf: &[u8]) -> Identity {
    Identity::from_certificate(leaf, "calico".into())
}

fn name(leaf: &[u8]) -> Result<String, NameRefusal> {
    identity(leaf).common_name.map(|name| name.to_string())
}

/// DER: tag, length, content.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match u16::try_from(content.len()).unwrap() {
        short @ 0..=127 => vec![short.to_le_bytes()[0]],
        long @ 128.. => [&[0x82], &long.to_be_bytes()[..]].concat(),
    };
    [&[tag], &length[..], content].concat()
}

/// A SET of attributes: the last number of `2.5.4.x`, the string's tag, the value.
fn rdn(attributes: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let attribute = |(kind, tag, value): &(u8, u8, &[u8])| {
        tlv(0x30, &[tlv(0x06, &[0x55, 0x04, *kind]), tlv(*tag, value)].concat())
    };
    tlv(0x31, &attributes.iter().flat_map(attribute).collect::<Vec<u8>>())
}

/// A certificate with a handmade subject, for subjects that rcgen refuses to create. Key and
/// signature are well-formed but not valid.
fn with_subject(rdns: &[Vec<u8>]) -> Vec<u8> {
    const CN: u8 = 3;
    let ed25519 = tlv(0x30, &tlv(0x06, &[0x2b, 0x65, 0x70]));
    let key = tlv(0x30, &[ed25519.clone(), tlv(0x03, &[0; 33])].concat());
    let validity = tlv(0x30, &[tlv(0x17, b"250101000000Z"), tlv(0x17, b"490101000000Z")].concat());
    let issuer = tlv(0x30, &rdn(&[(CN, 0x0c, b"a CA")]));
    let parts = [
        tlv(0xa0, &tlv(0x02, &[2])),
        tlv(0x02, &[0x00, 0x9f, 0x01]),
        ed25519.clone(),
        issuer,
        validity,
        tlv(0x30, &rdns.concat()),
        key,
    ];
    tlv(0x30, &[tlv(0x30, &parts.concat()), ed25519, tlv(0x03, &[0; 65])].concat())
}

const CN: u8 = 3;
const O: u8 = 10;
const UTF8: u8 = 0x0c;

#[test]
fn reads_every_name_of_an_ordinary_certificate() {
    let leaf = certificate(|params| {
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "calico-node:worker-1");
        params.serial_number = Some(SerialNumber::from_slice(&[0x9f, 0x01, 0xab]));
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        params.subject_alt_names = vec![
            SanType::URI(
                "spiffe://cluster.local/ns/kube-system/sa/calico-node".try_into().unwrap(),
            ),
            SanType::DnsName("b.example".try_into().unwrap()),
            SanType::DnsName("a.example".try_into().unwrap()),
            SanType::IpAddress("192.0.2.1".parse().unwrap()),
        ];
    });
    let identity = identity(&leaf);
    assert_eq!(identity.ca.as_ref(), "calico");
    assert_eq!(identity.common_name.as_deref(), Ok("calico-node:worker-1"));
    assert_eq!(identity.uri_sans, ["spiffe://cluster.local/ns/kube-system/sa/calico-node"]);
    assert_eq!(identity.dns_sans, ["b.example", "a.example"]);
    assert_eq!(identity.organizations, ["system:nodes"]);
    assert_eq!(identity.serial, "9f01ab");
    assert_eq!(identity.issuer, "O=system:nodes, CN=calico-node:worker-1");
    assert_eq!(identity.not_after, 2_208_988_800);
}

#[test]
fn accepts_string_types_with_one_reading() {
    for (tag, value, expected) in [
        (UTF8, "calico/nøde".as_bytes(), "calico/nøde"),
        (0x13, b"calico-node", "calico-node"),
        (0x13, b"calico_node@*", "calico_node@*"),
        (0x16, b"node@example.com", "node@example.com"),
        (0x12, b"007", "007"),
    ] {
        assert_eq!(
            name(&with_subject(&[rdn(&[(CN, tag, value)])])),
            Ok(expected.to_owned()),
            "{tag:#x}"
        );
    }
}

#[test]
fn each_unusable_name_has_its_own_reason() {
    for (case, rdns, refusal) in [
        ("no subject at all", vec![], NameRefusal::Missing),
        ("only an O", vec![rdn(&[(O, UTF8, b"x")])], NameRefusal::Missing),
        ("two", vec![rdn(&[(CN, UTF8, b"a")]), rdn(&[(CN, UTF8, b"b")])], NameRefusal::Several),
        (
            "twice the same",
            vec![rdn(&[(CN, UTF8, b"a")]), rdn(&[(CN, UTF8, b"a")])],
            NameRefusal::Several,
        ),
        ("two in one RDN", vec![rdn(&[(CN, UTF8, b"a"), (CN, UTF8, b"b")])], NameRefusal::Several),
        (
            "two, one of them empty",
            vec![rdn(&[(CN, UTF8, b"a"), (CN, UTF8, b"")])],
            NameRefusal::Several,
        ),
        (
            "two, far apart",
            vec![
                rdn(&[(CN, UTF8, b"a")]),
                rdn(&[(O, UTF8, b"o")]),
                rdn(&[(O, UTF8, b"o"), (CN, 0x1e, b"\0b")]),
            ],
            NameRefusal::Several,
        ),
        ("empty", vec![rdn(&[(CN, UTF8, b"")])], NameRefusal::Empty),
        ("NUL", vec![rdn(&[(CN, UTF8, b"admin\0.example")])], NameRefusal::Nul),
        ("NUL alone", vec![rdn(&[(CN, 0x16, b"\0")])], NameRefusal::Nul),
        ("line end", vec![rdn(&[(CN, UTF8, b"admin\n")])], NameRefusal::Control),
        ("escape", vec![rdn(&[(CN, UTF8, b"\x1b[2J")])], NameRefusal::Control),
        ("DEL", vec![rdn(&[(CN, UTF8, b"a\x7f")])], NameRefusal::Control),
        ("C1", vec![rdn(&[(CN, UTF8, "a\u{85}".as_bytes())])], NameRefusal::Control),
        (
            "right to left",
            vec![rdn(&[(CN, UTF8, "a\u{202e}nimda".as_bytes())])],
            NameRefusal::Control,
        ),
        ("no width", vec![rdn(&[(CN, UTF8, "ad\u{200b}min".as_bytes())])], NameRefusal::Control),
        (
            "byte order mark",
            vec![rdn(&[(CN, UTF8, "\u{feff}admin".as_bytes())])],
            NameRefusal::Control,
        ),
        ("line separator", vec![rdn(&[(CN, UTF8, "a\u{2028}b".as_bytes())])], NameRefusal::Control),
        ("bad UTF-8", vec![rdn(&[(CN, UTF8, b"caf\xe9")])], NameRefusal::NotUtf8),
        ("overlong NUL", vec![rdn(&[(CN, UTF8, b"a\xc0\x80")])], NameRefusal::NotUtf8),
        ("UTF-8 in an ASCII type", vec![rdn(&[(CN, 0x16, "é".as_bytes())])], NameRefusal::NotUtf8),
        ("Teletex", vec![rdn(&[(CN, 0x14, b"admin")])], NameRefusal::NotUtf8),
        ("BMP", vec![rdn(&[(CN, 0x1e, b"\0a\0d\0m\0i\0n")])], NameRefusal::NotUtf8),
        ("Universal", vec![rdn(&[(CN, 0x1c, b"\0\0\0a")])], NameRefusal::NotUtf8),
        ("octets", vec![rdn(&[(CN, 0x04, b"admin")])], NameRefusal::NotUtf8),
        ("constructed", vec![rdn(&[(CN, 0x2c, &tlv(UTF8, b"admin"))])], NameRefusal::NotUtf8),
        ("context tag", vec![rdn(&[(CN, 0x8c, b"admin")])], NameRefusal::NotUtf8),
    ] {
        assert_eq!(name(&with_subject(&rdns)), Err(refusal), "{case}");
    }
}

#[test]
fn refuses_a_bmp_name_written_by_rcgen() {
    let bmp = rcgen::string::BmpString::try_from("admin").unwrap();
    let leaf = certificate(|params| {
        params.distinguished_name.push(DnType::CommonName, DnValue::BmpString(bmp));
    });
    assert_eq!(name(&leaf), Err(NameRefusal::NotUtf8));
}

#[test]
fn ignores_organizations_that_cannot_be_decoded() {
    let leaf = with_subject(&[
        rdn(&[(O, UTF8, b"first")]),
        rdn(&[(O, 0x1e, b"\0x"), (O, UTF8, b"a\0b")]),
        rdn(&[(O, 0x13, b"last"), (CN, UTF8, b"n")]),
    ]);
    assert_eq!(identity(&leaf).organizations, ["first", "last"]);
    assert_eq!(name(&leaf).as_deref(), Ok("n"));
}

#[test]
fn a_malformed_certificate_has_no_names() {
    let whole = certificate(|params| {
        params.distinguished_name.push(DnType::CommonName, "admin");
        params.subject_alt_names = vec![SanType::DnsName("admin.example".try_into().unwrap())];
    });
    let cut = &whole[..whole.len() - 1];
    let longer = [&whole[..], &[0]].concat();
    for leaf in [&[][..], b"not DER", cut, &longer] {
        let identity = identity(leaf);
        assert_eq!(identity.common_name, Err(NameRefusal::Unreadable));
        assert!(
            identity.dns_sans.is_empty()
                && identity.uri_sans.is_empty()
                && identity.organizations.is_empty()
        );
        assert_eq!(identity.not_after, i64::MAX);
    }
}

#[test]
fn malformed_alternative_names_make_a_certificate_unreadable() {
    let leaf = certificate(|params| {
        params.distinguished_name.push(DnType::CommonName, "admin");
        params
            .custom_extensions
            .push(rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], b"not names".to_vec()));
    });
    assert_eq!(name(&leaf), Err(NameRefusal::Unreadable));
}

proptest! {
    #[test]
    fn an_accepted_name_has_one_reading(
        tag in prop_oneof![Just(UTF8), Just(0x13), Just(0x16), Just(0x1e), any::<u8>()],
        value in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        if let Ok(name) = name(&with_subject(&[rdn(&[(CN, tag, &value)])])) {
            prop_assert_eq!(name.as_bytes(), &value[..]);
            prop_assert!(!name.is_empty() && !name.contains(char::is_control));
        }
    }

    #[test]
    fn the_parser_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut leaf = with_subject(&[rdn(&[(CN, UTF8, b"admin"), (O, UTF8, b"o")])]);
        let at = at.index(leaf.len());
        leaf[at] = byte;
        let identity = identity(&leaf);
        prop_assert!(
            identity.common_name.is_ok()
                || identity.common_name.is_err_and(|refusal| !refusal.code().is_empty())
        );
    }
}

#[test]
fn a_serial_is_written_without_its_sign_byte() {
    for (serial, text) in
        [(&[0, 0x80, 1][..], "8001"), (&[0], "00"), (&[1, 0], "0100"), (&[0, 0, 1], "0001")]
    {
        assert_eq!(hexadecimal(serial), text);
    }
}

#[test]
fn each_refusal_has_a_code_and_a_sentence() {
    use NameRefusal as N;
    let all = [N::Missing, N::Several, N::Empty, N::Nul, N::Control, N::NotUtf8, N::Unreadable];
    let codes = [
        "cn_missing",
        "cn_several",
        "cn_empty",
        "cn_nul",
        "cn_control_character",
        "cn_not_utf8",
        "certificate_unreadable",
    ];
    assert_eq!(all.map(N::code), codes);
    let mut sentences = all.map(|refusal| refusal.to_string());
    assert!(
        sentences.iter().all(|sentence| sentence.starts_with("the certificate")),
        "{sentences:?}"
    );
    sentences.sort();
    assert!(sentences.windows(2).all(|two| two[0] != two[1]), "{sentences:?}");
    assert!(all.iter().all(|refusal| refusal.leaves_other_names() == (*refusal == N::Missing)));
}

#[test]
fn the_distinction_covers_every_kind_of_name() {
    let of = |change: &dyn Fn(&mut CertificateParams)| {
        let leaf = certificate(|params| {
            params.distinguished_name.push(DnType::OrganizationName, "team");
            change(params);
        });
        identity(&leaf).distinction
    };
    assert_eq!(of(&|_| {}), None, "an O alone");
    let unit = |name: &'static str| {
        of(&move |params| params.distinguished_name.push(DnType::OrganizationalUnitName, name))
    };
    let email = |name: &'static str| {
        of(&move |params| {
            params.subject_alt_names = vec![SanType::Rfc822Name(name.try_into().unwrap())];
        })
    };
    let address = |name: &'static str| {
        of(&move |params| {
            params.subject_alt_names = vec![SanType::IpAddress(name.parse().unwrap())];
        })
    };
    let all = [
        unit("a"),
        unit("b"),
        email("a@x"),
        email("b@x"),
        address("192.0.2.1"),
        address("192.0.2.2"),
    ];
    let several: std::collections::HashSet<_> = all.iter().flatten().collect();
    assert_eq!(several.len(), all.len(), "{all:?}");
    assert_eq!(unit("a"), unit("a"), "a renewed certificate");
    let two_os = |second: &[u8]| {
        identity(&with_subject(&[rdn(&[(O, UTF8, b"team")]), rdn(&[(O, UTF8, second)])]))
            .distinction
    };
    assert_ne!(two_os(b"a"), two_os(b"b"));
}
