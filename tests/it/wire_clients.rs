//! Recorded requests of real clients (`tests/wire/clients`) are accepted: none is refused for its
//! form.

mod fixture;
mod record;

use std::collections::BTreeSet;

use etcd_warden_core::method::Method;
use etcd_warden_core::wire;

#[test]
fn no_request_of_a_real_client_is_refused_for_its_form() {
    let mut methods = BTreeSet::new();
    for client in fixture::CLIENTS {
        let requests = fixture::read(client);
        assert!(requests.len() >= 7, "{client}: {} requests", requests.len());
        for (method, message) in requests {
            let judged = wire::inspect(method, &message).map(drop);
            assert_eq!(judged, Ok(()), "{client}: {} {message:02x?}", method.path());
            methods.insert(method);
        }
    }
    let all: BTreeSet<Method> = Method::ALL.iter().copied().collect();
    let never: Vec<&Method> = all.difference(&methods).collect();
    // No recorded client has a command for these.
    assert_eq!(
        never,
        [&Method::RangeStream, &Method::HealthCheck, &Method::HealthList, &Method::HealthWatch]
    );
}
