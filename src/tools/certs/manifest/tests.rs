use super::*;

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\nBBBB\n-----END CERTIFICATE-----\n";
const OTHER: &str = "-----BEGIN CERTIFICATE-----\nCCCC\n-----END CERTIFICATE-----\n";

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

#[test]
fn secrets_are_read_from_text_base64_and_lists() {
    let plain = format!(
        "---\nkind: Secret\nmetadata:\n  name: a\nstringData:\n  etcd-cert: |\n{}---\nkind: ConfigMap\nmetadata: {{name: x}}\n",
        indented(PEM)
    );
    let encoded = format!(
        "kind: Secret\nmetadata:\n  name: b\n  labels: {{x: y}}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: {}\n",
        STANDARD.encode(PEM)
    );
    let list = format!(
        r#"{{"kind": "List", "items": [{{"kind": "Secret", "metadata": {{"name": "c"}}, "data": {{"etcd-cert": "{}"}}}}]}}"#,
        STANDARD.encode(PEM)
    );
    for (text, name) in [(plain, "a"), (encoded, "b"), (list, "c")] {
        let found = secrets(&text).secrets;
        assert_eq!(found.len(), 1, "{text}");
        assert_eq!((found[0].name.name.as_str(), found[0].certificate.as_str()), (name, PEM));
    }
    for text in ["", "kind: Secret\ndata: {}\n", ": :\n\t", "[1, 2]"] {
        assert!(secrets(text).secrets.is_empty(), "{text}");
    }
}

#[test]
fn replacing_a_pem_text_changes_nothing_else() {
    let change = [(PEM.to_owned(), Zeroizing::new(OTHER.to_owned()))];
    let around = |pem: &str| {
        format!(
            "# a comment\nkind: Secret\nstringData:\n  etcd-cert: |\n{}  other: x\n",
            indented(pem)
        )
    };
    let (text, counts) = replaced(&around(PEM), &change);
    assert_eq!((text.as_str(), counts), (around(OTHER).as_str(), vec![1]));
    for around in [
        |value: &str| format!("  tls.crt: {value}\n"),
        |value: &str| format!("  \"tls.crt\": \"{value}\",\n"),
    ] {
        let (text, counts) = replaced(&around(&STANDARD.encode(PEM)), &change);
        assert_eq!((text.as_str(), counts), (around(&STANDARD.encode(OTHER)).as_str(), vec![1]));
    }
    // Another certificate with the same first line.
    let near = around(&PEM.replace("BBBB", "DDDD"));
    assert_eq!(replaced(&near, &change), (Zeroizing::new(near.clone()), vec![0]));
}

#[test]
fn line_endings_are_preserved() {
    let change = [(PEM.to_owned(), Zeroizing::new(OTHER.to_owned()))];
    let plain = |pem: &str| format!("kind: Secret\nstringData:\n  etcd-cert: |\n{}", indented(pem));
    let encoded = |pem: &str| {
        format!("kind: Secret\ndata:\n  other: x\n  etcd-cert: {}\n", STANDARD.encode(pem))
    };
    for (old, new) in [(plain(PEM), plain(OTHER)), (encoded(PEM), encoded(OTHER))] {
        for form in
            [|text: &str| text.replace('\n', "\r\n"), |text: &str| text.trim_end().to_owned()]
        {
            assert_eq!(secrets(&form(&old)).secrets.len(), 1);
            assert_eq!(replaced(&form(&old), &change), (Zeroizing::new(form(&new)), vec![1]));
        }
    }
}

#[test]
fn replacements_are_counted_for_each_text() {
    let (second, third) = (PEM.replace("AAAA", "EEEE"), PEM.replace("BBBB", "DDDD"));
    let changes = [&PEM.to_owned(), &second, &third]
        .map(|old| (old.clone(), Zeroizing::new(OTHER.to_owned())));
    assert_eq!(replaced(&[PEM, PEM, &third].concat(), &changes).1, [2, 0, 1]);
}
