use super::*;

fn names(text: &str) -> Vec<String> {
    parse("nodes", text, NameFrom::Name).unwrap_or_else(|errors| panic!("{errors}")).names
}

fn errors(text: &str) -> String {
    parse("nodes", text, NameFrom::Name).unwrap_err().to_string()
}

#[test]
fn a_list_has_one_name_per_line() {
    assert_eq!(
        names("a\n# b\n\n  n1.example.org \t# why\r\n10\r\n"),
        ["a", "n1.example.org", "10"]
    );
    assert_eq!(names("\u{feff}a"), ["a"]);
}

#[test]
fn the_header_of_a_table_is_not_a_node() {
    assert_eq!(names("NAME       \nworker-1   \nworker-2   \n"), ["worker-1", "worker-2"]);
    let wide = "\u{feff}# calicoctl get nodes -o wide\r\n\r\nNAME   ASN       IPV4          IPV6\r\nn1     (64512)   10.0.0.1/24\r\nn2     65001     10.0.0.2/24   fd00::2/64\r\n";
    assert_eq!(names(wide), ["n1", "n2"]);
    assert_eq!(
        names("NAME  STATUS  ROLES   AGE  VERSION\nn1  Ready  <none>  5d  v1.34.4\n"),
        ["n1"]
    );
    assert_eq!(names("name\nnamespace\n"), ["name", "namespace"], "names of nodes may be such");
    assert!(errors("NAME\n").contains("the list contains no node"));
    assert!(
        errors("n1\nNAME\nn2\n").contains("a header below other lines"),
        "two lists in one file"
    );
    assert!(errors("NAME\nn1\nNAME ASN\n").contains("nodes:3:1"));
    assert!(
        errors("n1 Ready\n").contains("a table begins with its header"),
        "a table without its header"
    );
}

#[test]
fn every_bad_line_is_reported_with_its_position() {
    insta::assert_snapshot!(errors("a\nb_c\n  -d e\nA\n#\né\n"), @r"
    error: `b_c` is not a valid name of a node
      --> nodes:2:1
       |
     2 | b_c
       | ^^^
      = help: use lower-case letters, digits, `-` and `.`; each part begins and ends with a letter or a digit; at most 253 characters

    error: `-d` is not a valid name of a node
      --> nodes:3:3
       |
     3 |   -d e
       |   ^^
      = help: use lower-case letters, digits, `-` and `.`; each part begins and ends with a letter or a digit; at most 253 characters

    error: `e` is a second word on the line of a node
      --> nodes:3:6
       |
     3 |   -d e
       |      ^
      = help: write one name per line, and comments after `#`; a table begins with its header `NAME`

    error: node `a` is listed again, first on line 1: etcd has both in lower case
      --> nodes:4:1
       |
     4 | A
       | ^
      = help: list each node once

    error: `é` is not a valid name of a node
      --> nodes:6:1
       |
     6 | é
       | ^
      = help: use lower-case letters, digits, `-` and `.`; each part begins and ends with a letter or a digit; at most 253 characters
    ");
}

#[test]
fn an_upper_case_name_becomes_lower_case_with_a_note() {
    let read = parse("nodes", "b\nWorker-1\n", NameFrom::Name).unwrap();
    assert_eq!(read.names, ["b", "worker-1"]);
    let note = read.notes.to_string();
    assert!(
        note.contains("the certificate is for `worker-1`") && note.contains("nodes:2:1"),
        "{note}"
    );
}

#[test]
fn json_of_kubectl_and_calicoctl_is_read() {
    let kubectl = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"kind": "Node", "metadata": {"name": "n1", "labels": {}}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}},
        {"kind": "Node", "metadata": {"name": "n2"}, "status": {"addresses": [{"type": "Hostname", "address": "N2"}]}}]}"#;
    assert_eq!(names(kubectl), ["n1", "n2"]);
    let calicoctl = r#"{"kind":"NodeList","apiVersion":"projectcalico.org/v3","metadata":{"resourceVersion":"1"},"items":[{"kind":"Node","metadata":{"name":"n\u0031"}}]}"#;
    assert_eq!(names(calicoctl), ["n1"]);
    assert_eq!(names(r#"{"kind":"Node","metadata":{"name":"n1"}}"#), ["n1"]);
}

#[test]
fn a_differing_host_name_is_noted_and_can_be_used() {
    let text = r#"{"items": [{"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "Hostname", "address": "Ip-10"}]}}]}"#;
    let read = parse("nodes", text, NameFrom::Name).unwrap();
    assert_eq!(read.names, ["n1"]);
    assert!(read.notes.to_string().contains("such as `Ip-10` for `n1`"), "{}", read.notes);
    assert_eq!(parse("nodes", text, NameFrom::Hostname).unwrap().names, ["ip-10"]);
    assert!(
        parse("nodes", r#"{"items": [{"metadata": {"name": "n1"}}]}"#, NameFrom::Hostname).is_err()
    );
}

#[test]
fn bad_json_and_bad_names_are_reported_with_positions() {
    let text = "{\"items\": [\n  {\"metadata\": {\"name\": \"a_b\"}},\n  {\"metadata\": {}},\n  {\"kind\": \"Pod\", \"metadata\": {\"name\": \"p\"}}]}";
    let report = errors(text);
    for words in [
        "`a_b` is not a valid name of a node",
        "nodes:2:26",
        "entry 2 has no `metadata.name`",
        "entry 3 is a Pod",
    ] {
        assert!(report.contains(words), "{words}: {report}");
    }
    assert!(errors("{\"items\": [\n {\"metadata\"\n]}").contains("nodes:3:"));
    assert!(errors("{}").contains("entry 1 has no `metadata.name`"));
    assert!(errors("{\"items\": []}").contains("the list contains no node"));
    assert!(errors("# nothing\n").contains("the list contains no node"));
}

#[test]
fn a_node_listed_twice_is_an_error_also_in_two_cases() {
    assert!(errors("a\nb\na\n").contains("node `a` is listed again, first on line 1"));
    assert!(errors("n1\nN1\n").contains("first on line 1: etcd has both in lower case"));
    assert!(from_arguments(&["a".into(), "a".into()]).is_err());
    assert_eq!(from_arguments(&[]).unwrap().names, Vec::<String>::new());
}
