//! Load that is meant to harm, and its effect on another identity. The limits are those of
//! `docs/limits.md`. `cargo test --test it harm:: -- --nocapture` prints the neighbour's latencies
//! in each case.

mod descriptors;
mod floods;
mod frames;
mod giants;
mod handshakes;
mod identity;
mod log;
mod memory;
mod readers;
mod records;
mod small;
mod turns;

/// Every client has the same rights. They differ in what they do with them.
const POLICY: &str = "
version: 1
mode: enforce
roles:
  all: {allow: [{keys: $P/*, verbs: [rw]}]}
bindings:
  - {cn: alice, roles: [all]}
  - {cn: bob, roles: [all]}
  - {cn: neighbour, roles: [all]}
  - {cn: newcomer, roles: [all]}
  - {cn: \"reader-{number}\", roles: [all]}
";

/// The size of a test: `usual`, or the value of the environment variable.
fn scale(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| {
        text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`"))
    })
}
