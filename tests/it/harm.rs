//! Load that is meant to harm, and what another identity notices of it meanwhile. The bounds are those of `docs/limits.md`.
//! `cargo test --test it harm:: -- --nocapture` shows how the neighbour was served in each case.

mod floods;
mod giants;
mod handshakes;
mod identity;
