//! Load that is meant to harm, and what another identity notices of it meanwhile. The bounds are those of `docs/limits.md`.

mod handshakes;
mod identity;
