//! Load that is meant to harm, and what another identity notices of it meanwhile. The bounds are those of `docs/limits.md`.
//! `cargo test --test it harm:: -- --nocapture` shows how the neighbour was served in each case.

mod floods;
mod giants;
mod handshakes;
mod identity;
mod memory;
mod readers;
mod records;

/// How much of something there is: so much, or what the environment says.
fn scale(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`")))
}
