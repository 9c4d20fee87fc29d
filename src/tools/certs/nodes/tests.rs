use super::*;

fn names(text: &str) -> Vec<String> {
    parse("nodes", text, NameFrom::Name).unwrap_or_else(|mistakes| panic!("{mistakes}")).names
}

fn mistakes(text: &str) -> String {
    parse("nodes", text, NameFrom::Name).unwrap_err().to_string()
}

#[test]
fn a_list_has_one_name_on_each_line() {
    assert_eq!(
        names("a\n# b\n\n  n1.example.org \t# why\r\n10\r\n"),
        ["a", "n1.example.org", "10"]
    );
    assert_eq!(names("\u{feff}a"), ["a"]);
}

#[test]
fn the_header_of_a_table_is_no_node() {
    assert_eq!(names("NAME       \nworker-1   \nworker-2   \n"), ["worker-1", "worker-2"]);
    let wide = "\u{feff}# calicoctl get nodes -o wide\r\n\r\nNAME   ASN       IPV4          IPV6\r\nn1     (64512)   10.0.0.1/24\r\nn2     65001     10.0.0.2/24   fd00::2/64\r\n";
    assert_eq!(names(wide), ["n1", "n2"]);
    assert_eq!(
        names("NAME  STATUS  ROLES   AGE  VERSION\nn1  Ready  <none>  5d  v1.34.4\n"),
        ["n1"]
    );
    assert_eq!(names("name\nnamespace\n"), ["name", "namespace"], "names of nodes may be such");
    assert!(mistakes("NAME\n").contains("there is no node in it"));
    assert!(
        mistakes("n1\nNAME\nn2\n").contains("this is a header below other lines"),
        "two lists in one file"
    );
    assert!(mistakes("NAME\nn1\nNAME ASN\n").contains("nodes:3:1"));
    assert!(
        mistakes("n1 Ready\n").contains("a table begins with its header"),
        "a table without its header"
    );
}

#[test]
fn every_bad_line_is_told_with_its_place() {
    insta::assert_snapshot!(mistakes("a\nb_c\n  -d e\nA\n#\né\n"), @r"
    error: `b_c` is no name of a node
      --> nodes:2:1
       |
     2 | b_c
       | ^^^
      = help: lower-case letters, digits, `-` and `.`; each part begins and ends with a letter or a digit; at most 253 characters

    error: `-d` is no name of a node
      --> nodes:3:3
       |
     3 |   -d e
       |   ^^
      = help: lower-case letters, digits, `-` and `.`; each part begins and ends with a letter or a digit; at most 253 characters

    error: `e` is a second word in the line of a node
      --> nodes:3:6
       |
     3 |   -d e
       |      ^
      = help: one name on each line, and comments behind `#`; a table begins with its header, `NAME`

    error: node `a` stands here again, first in line 1: etcd has both in lower case
      --> nodes:4:1
       |
     4 | A
       | ^
      = help: a node is named once

    error: `é` is no name of a node
      --> nodes:6:1
       |
     6 | é
       | ^
      = help: lower-case letters, digits, `-` and `.`; each part begins and ends with a letter or a digit; at most 253 characters
    ");
}

#[test]
fn an_upper_case_name_is_taken_as_etcd_has_it_and_said() {
    let read = parse("nodes", "b\nWorker-1\n", NameFrom::Name).unwrap();
    assert_eq!(read.names, ["b", "worker-1"]);
    let note = read.notes.to_string();
    assert!(
        note.contains("the certificate says `worker-1`") && note.contains("nodes:2:1"),
        "{note}"
    );
}

#[test]
fn kubectls_and_calicoctls_json_are_read() {
    let kubectl = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"kind": "Node", "metadata": {"name": "n1", "labels": {}}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}},
        {"kind": "Node", "metadata": {"name": "n2"}, "status": {"addresses": [{"type": "Hostname", "address": "N2"}]}}]}"#;
    assert_eq!(names(kubectl), ["n1", "n2"]);
    let calicoctl = r#"{"kind":"NodeList","apiVersion":"projectcalico.org/v3","metadata":{"resourceVersion":"1"},"items":[{"kind":"Node","metadata":{"name":"n\u0031"}}]}"#;
    assert_eq!(names(calicoctl), ["n1"]);
    assert_eq!(names(r#"{"kind":"Node","metadata":{"name":"n1"}}"#), ["n1"]);
}

#[test]
fn a_host_name_that_is_not_the_nodes_name_is_said_and_can_be_taken() {
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
fn bad_json_and_bad_names_in_it_are_told_with_their_places() {
    let text = "{\"items\": [\n  {\"metadata\": {\"name\": \"a_b\"}},\n  {\"metadata\": {}},\n  {\"kind\": \"Pod\", \"metadata\": {\"name\": \"p\"}}]}";
    let said = mistakes(text);
    for words in [
        "`a_b` is no name of a node",
        "nodes:2:26",
        "entry 2 has no `metadata.name`",
        "entry 3 is a Pod",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(mistakes("{\"items\": [\n {\"metadata\"\n]}").contains("nodes:3:"));
    assert!(mistakes("{}").contains("entry 1 has no `metadata.name`"));
    assert!(mistakes("{\"items\": []}").contains("there is no node in it"));
    assert!(mistakes("# nothing\n").contains("there is no node in it"));
}

#[test]
fn one_node_twice_is_a_mistake_also_in_two_cases() {
    assert!(mistakes("a\nb\na\n").contains("node `a` stands here again, first in line 1"));
    assert!(mistakes("n1\nN1\n").contains("first in line 1: etcd has both in lower case"));
    assert!(given(&["a".into(), "a".into()]).is_err());
    assert_eq!(given(&[]).unwrap().names, Vec::<String>::new());
}
