//! Compares `docs/policy.md` with the code: the page explains every word of the policy language,
//! and every policy on it is valid.

use super::check::VERBS;
use super::{Policy, builtin, file};
use crate::access::Capability;

const DOCS: &str = include_str!("../../../docs/policy.md");
const EXAMPLE: &str = include_str!("../../../deploy/policy.example.yaml");

#[test]
fn docs_explain_every_word_of_the_policy_language() {
    let fields =
        [file::FIELDS, file::ROLE_FIELDS, file::RULE_FIELDS, file::BINDING_FIELDS].concat();
    let capabilities = Capability::ALL.iter().map(|capability| capability.name().to_owned());
    let sets = builtin::ALL
        .iter()
        .flat_map(|set| set.role_names().into_iter().chain([set.name.to_owned()]));
    let words =
        fields.iter().chain(VERBS).map(|word| (*word).to_owned()).chain(capabilities).chain(sets);
    for word in words.chain(["shadow".to_owned(), "enforce".to_owned()]) {
        assert!(DOCS.contains(&format!("`{word}`")), "docs/policy.md does not explain `{word}`");
    }
    assert!(DOCS.contains("`{from: A, to: B}`") && DOCS.contains("|dash-doubled}`"));
}

#[test]
fn policies_in_the_docs_and_the_example_are_valid() {
    let blocks: Vec<&str> =
        DOCS.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 3, "docs/policy.md has {} policies", blocks.len());
    for text in blocks.iter().chain([&EXAMPLE]) {
        let policy = Policy::parse("docs/policy.md", text.as_bytes(), 1, None)
            .unwrap_or_else(|errors| panic!("{errors}"));
        assert!(policy.warnings().is_empty(), "{}", policy.warnings());
    }
}
