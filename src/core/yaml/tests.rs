use super::*;

const LIMITS: Limits = Limits { documents: 2, depth: 4, values: 100, repeated: 20 };

fn root(text: &str) -> Node<'_> {
    let mut documents = parse(text, LIMITS).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

fn error(text: &str) -> (usize, usize, String) {
    let error = parse(text, LIMITS).expect_err(text);
    (error.position.line, error.position.column, error.message)
}

#[test]
fn nodes_know_their_position_and_their_bytes() {
    let text = "a: \u{e9}\u{e9}\nb:\n  - 'x' # comment\n  - [1, 2]\n\n# end\n";
    let root = root(text);
    let b = root.get("b").unwrap();
    let at = |node: &Node<'_>| {
        (node.position.line, node.position.column, node.position.width, &text[node.span.clone()])
    };
    assert_eq!(at(root.get("a").unwrap()), (1, 4, 2, "\u{e9}\u{e9}"));
    assert_eq!(at(&b.items()[0]), (3, 5, 3, "'x'"));
    assert_eq!(at(&b.items()[1]), (4, 5, 1, "[1, 2]"));
    // A block ends with its last value, not with the comments after it.
    assert_eq!(b.span.end, b.items()[1].span.end);
}

#[test]
fn plain_scalars_have_the_types_of_the_core_schema() {
    use Type::{Boolean, Null, Number, Tagged, Text};
    for (expected, scalars) in [
        (Null, &["", "~", "null", "Null", "NULL", "!!null x"][..]),
        (Boolean, &["true", "True", "FALSE", "!!bool yes"]),
        (
            Number,
            &[
                "1",
                "-1",
                "+1",
                "0",
                "0x1f",
                "0xffffffffffffffff",
                "0o17",
                "0b1",
                "1_000",
                "0400",
                "1.5",
                ".5",
            ],
        ),
        (Number, &["1e3", "1e999", ".inf", "-.INF", ".nan", "99999999999999999999", "!!int '1'"]),
        (Text, &["a", "yes", "off", "'1'", "\"true\"", "1.2.3", "inf", "nan", "infinity", "1__0"]),
        (Text, &["/a", "0x", "+", "1h", "'~'", "!!str 1", "! 1", "2024-01-01", "'' "]),
        (Tagged, &["!!binary YQ==", "!mine x"]),
    ] {
        for scalar in scalars {
            let text = format!("a: {scalar}");
            let node = root(&text);
            let found = node.get("a").unwrap().schema_type();
            assert_eq!(found, expected, "{scalar}");
        }
    }
}

#[test]
fn a_tag_of_another_kind_of_node_is_no_value() {
    for (expected, node) in [
        (Type::List, "[x]"),
        (Type::List, "!!seq [x]"),
        (Type::List, "! [x]"),
        (Type::Map, "!!map {x: y}"),
        (Type::Tagged, "!!str [x]"),
        (Type::Tagged, "!!map [x]"),
        (Type::Tagged, "!!seq {x: y}"),
        (Type::Tagged, "!mine {x: y}"),
        (Type::Tagged, "!!seq x"),
    ] {
        let text = format!("a: {node}");
        assert_eq!(root(&text).get("a").unwrap().schema_type(), expected, "{node}");
    }
}

#[test]
fn integers_are_read_in_every_notation_within_64_bits() {
    for (text, number) in [
        ("1", Some(1)),
        ("+1", Some(1)),
        ("-0x10", Some(-16)),
        ("0o17", Some(15)),
        ("0B11", Some(3)),
        ("1_000", Some(1000)),
        ("9223372036854775808", Some(1 << 63)),
        ("-9223372036854775809", None),
        ("18446744073709551615", Some(i128::from(u64::MAX))),
        ("18446744073709551616", None),
        ("01", None),
        ("1__0", None),
        ("_1", None),
        ("+-1", None),
        ("1.0", None),
        ("", None),
        ("0x", None),
    ] {
        assert_eq!(integer(text), number, "{text}");
    }
}

#[test]
fn repeated_keys_anchors_aliases_and_tags_are_kept() {
    let root = root("a: &x [1]\na: *x\nb: !!str 1\n");
    let entries = root.entries();
    assert_eq!(entries.len(), 3);
    assert!(entries[0].1.anchored && !entries[0].1.aliased);
    assert!(entries[1].1.aliased && entries[1].1.items().len() == 1);
    assert_eq!((entries[1].1.position.line, entries[1].1.position.column), (2, 4));
    assert_eq!(entries[2].1.tag, Some(TagType::Text));
}

#[test]
fn what_exceeds_a_limit_is_an_error_at_its_position() {
    assert_eq!(error("a\n---\nb\n---\nc\n").0, 4);
    let deep = error("[[[[[1]]]]]");
    assert_eq!((deep.1, deep.2.as_str()), (5, "lists and mappings are nested deeper than 4"));
    let many = format!("[{}]", "1,".repeat(100));
    assert_eq!(error(&many).2, "this file has more than 100 values");
    let repeated = "a: &a [1, 2, 3]\nb: [*a, *a, *a, *a, *a, *a]\n";
    assert_eq!(error(repeated), (2, 25, "aliases repeat more than 20 values".to_owned()));
    // Long text counts more, so that a short file cannot become a long one.
    let long = format!("a: &a {}\nb: [*a, *a]\n", "x".repeat(1000));
    assert_eq!(error(&long).2, "aliases repeat more than 20 values");
    assert_eq!(error("a: &a [*a]\n").2, "an alias inside of the node that it repeats");
}

#[test]
fn nested_aliases_cannot_build_a_large_tree() {
    let mut text = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for (name, before) in "bcdefghijkl".chars().zip("abcdefghijk".chars()) {
        text.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 10].join(",")));
    }
    let limits = Limits { values: usize::MAX, repeated: 100_000, ..LIMITS };
    let error = parse(&text, limits).unwrap_err();
    assert_eq!(error.message, "aliases repeat more than 100000 values");
}

#[test]
fn a_syntax_error_keeps_the_complete_entries_before_it() {
    let error = parse("a: 1\nb: [1, 2]\nc: [", LIMITS).unwrap_err();
    let [root] = &error.documents[..] else { panic!("{error:?}") };
    let keys: Vec<_> = root.entries().iter().filter_map(|(key, _)| key.scalar()).collect();
    assert_eq!(keys, ["a", "b"]);
}

#[test]
fn any_text_is_a_tree_or_an_error_inside_of_it() {
    use proptest::prelude::*;
    fn check(node: &Node<'_>, text: &str) {
        assert!(text.get(node.span.clone()).is_some(), "{node:?}");
        node.items().iter().for_each(|item| check(item, text));
        node.entries().iter().for_each(|(key, value)| {
            check(key, text);
            check(value, text);
        });
    }
    proptest!(|(text in "[a-c:\\-\\[\\]{}&*!?'\"#|>\n\t ,~1\u{e9}]{0,60}")| {
        match parse(&text, LIMITS) {
            Ok(documents) => documents.iter().for_each(|document| check(document, &text)),
            Err(error) => {
                prop_assert!(!error.message.is_empty());
                prop_assert!(error.position.line <= text.lines().count() + 1);
                error.documents.iter().for_each(|document| check(document, &text));
            }
        }
    });
}
