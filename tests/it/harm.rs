//! Load that is meant to harm, and what another identity notices of it meanwhile. The bounds are
//! those of `docs/limits.md`. `cargo test --test it harm:: -- --nocapture` shows how the neighbour
//! was served in each case.

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

/// Everybody who comes here has the same right: what differs is what they do with it.
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

/// How much of something there is: so much, or what the environment says.
fn scale(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| {
        text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`"))
    })
}
