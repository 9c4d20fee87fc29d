//! The promise of the scan: whatever bytes it accepts, a decoder sees what was judged.

use super::choices::Choices;
use crate::method::Method;
use crate::wire::inspect;
use crate::wire::inspect::reference::{Touched, touched};

/// The method, by its place in [`Method::ALL`], and a message.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let method = choices.one_of(Method::ALL);
    let message = choices.rest();
    match inspect(method, message) {
        Err(malformed) => {
            assert!(malformed.offset <= message.len(), "{malformed} is outside of the message")
        }
        // The proxy answers health checks itself: their message is not read.
        Ok(accesses) if method.is_health() => {
            assert_eq!(Touched::from(&accesses), Touched::default());
        }
        Ok(accesses) => {
            let decoded = touched(method, message).expect("accepted, so prost reads it");
            assert_eq!(Touched::from(&accesses), decoded, "{method:?}");
        }
    }
}
