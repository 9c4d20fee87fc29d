//! The guarantee of the scan: a decoder reads every accepted message as the scan does.

use super::choices::Choices;
use crate::method::Method;
use crate::wire::inspect;
use crate::wire::inspect::reference::{AccessSet, access_set};

/// Input: the index of a method in [`Method::ALL`], and a message.
pub fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let method = choices.one_of(Method::ALL);
    let message = choices.rest();
    match inspect(method, message) {
        Err(malformed) => {
            assert!(malformed.offset <= message.len(), "{malformed} is outside the message");
        }
        // The gateway answers health checks itself and does not read their messages.
        Ok(accesses) if method.is_health() => {
            assert_eq!(AccessSet::from(&accesses), AccessSet::default());
        }
        Ok(accesses) => {
            let decoded = access_set(method, message).expect("prost refuses an accepted message");
            assert_eq!(AccessSet::from(&accesses), decoded, "{method:?}");
        }
    }
}
