//! Shadow mode is never in the way, and records what enforcement would do.

mod requests;
mod twins;

use etcd_warden::pki::Leaf;
use serde_json::Value;

use crate::world::{World, soon};
use requests::ROLE;
use twins::{Case, Expected, Twins};

fn policy(mode: &str, bindings: &str) -> String {
    format!("version: 1\nmode: {mode}\n{ROLE}\nbindings:\n{bindings}")
}

const ALICE: &str = "  - {cn: alice, roles: [own]}\n";

#[tokio::test]
async fn what_a_client_sees_through_a_shadowing_proxy_is_what_it_sees_directly() {
    let twins = Twins::start(&policy("shadow", ALICE), |_| ()).await;
    let cases: Vec<Case> = [
        requests::well_made(),
        requests::malformed(),
        requests::heads(),
        requests::never_half_closed(),
        requests::conversations(),
        requests::unlike(),
    ]
    .concat();
    assert!(cases.len() > 300, "a few hundred, not {}", cases.len());
    let differences = twins.differences(&Leaf::client("alice"), &cases).await;
    assert!(differences.is_empty(), "{} of {} differ\n{}", differences.len(), cases.len(), differences.join("\n"));
    recorded(&twins.world, &cases).await;
}

/// The audit has, request by request, the verdict of enforcement.
async fn recorded(world: &World, cases: &[Case]) {
    let expected: Vec<(&Case, Expected)> = cases.iter().flat_map(|case| case.expected.iter().map(move |line| (case, *line))).collect();
    let lines = soon("all lines of the audit", || async {
        let lines = world.audit();
        (lines.len() >= expected.len()).then_some(lines)
    })
    .await;
    let mut wrong = Vec::new();
    for (line, (case, expected)) in lines.iter().zip(&expected) {
        let decision = match expected {
            Expected::Allow => ("allow", Value::Null),
            Expected::WouldDeny(reason) => ("would_deny", reason.code().into()),
        };
        if (line["decision"].as_str().unwrap(), &line["reason"]) != (decision.0, &decision.1) {
            wrong.push(format!("{}: expected {expected:?}, found {line}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(lines.len(), expected.len());
}
