//! The time of one decision: the wire scan of a message alone, and with authorization.
//!
//! `cargo bench --bench decide`
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that meets the unexpected must fail at once, at that line"
)]

#[path = "decide/subjects.rs"]
mod subjects;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use etcd_warden_core::authorize::authorize;
use etcd_warden_core::wire;
use subjects::{messages, principal};

fn decide(criterion: &mut Criterion) {
    let messages = messages();
    for (name, method, message) in &messages {
        criterion.bench_function(&format!("scan/{name}"), |bencher| {
            bencher.iter(|| wire::inspect(*method, black_box(message)).unwrap());
        });
    }
    for (roles, grants) in [(10, 100), (10, 1_000), (10, 10_000)] {
        let principal = principal(roles, grants);
        for (name, method, message) in &messages {
            criterion.bench_function(
                &format!("decide/{name}/{} grants", roles * grants),
                |bencher| {
                    bencher.iter(|| {
                        let accesses = wire::inspect(*method, black_box(message)).unwrap();
                        authorize(black_box(&principal), &accesses, &[]).unwrap()
                    });
                },
            );
        }
    }
}

criterion_group!(benches, decide);
criterion_main!(benches);
