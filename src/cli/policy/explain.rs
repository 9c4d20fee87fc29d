//! `policy explain`: the decision about a call, made by the code that serves.

use std::io::{Read, Write};
use std::sync::Arc;

use etcd_warden_core::access::{Accesses, Capability};
use etcd_warden_core::authorize::{Denial, LeaseClaim, LeaseEvidence, authorize, refuse};
use etcd_warden_core::identity::{Identity, NameRefusal};
use etcd_warden_core::keyspace::{Escaped, KeyRange};
use etcd_warden_core::policy::{Grant, GrantId, Policy, Principal};
use etcd_warden_core::wire;
use etcd_warden_gateway::policy_file;
use serde_json::{Value, json};

use super::call::{self, Request};
use super::{ExplainArgs, Output, holders};
use crate::cli::exit;

/// Runs `policy explain`.
pub(super) fn run(
    args: &ExplainArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> std::io::Result<u8> {
    let policy = match policy_file::load(&args.policy, 0, None) {
        Ok(policy) => policy,
        Err(errors) => {
            write!(err, "{errors}")?;
            return Ok(exit::CONFIG);
        }
    };
    if let Some(key) = &args.key {
        return match call::bytes(key) {
            Ok(key) => holders::write(&policy, &key, args.output, out).map(|()| 0),
            Err(error) => usage(err, &error),
        };
    }
    let identity = identity(args);
    if identity.common_name.is_err()
        && args.uri.is_empty()
        && args.dns.is_empty()
        && args.o.is_empty()
    {
        return usage(err, "no identity: give `--cn`, or one of `--uri`, `--dns`, `--o`");
    }
    let requests = match call::parse(&args.call, stdin) {
        Ok(requests) => requests,
        Err(error) => return usage(err, &error),
    };
    let principal = policy.principal(&identity);
    let decisions: Vec<Decision> =
        requests.iter().map(|request| Decision::of(&principal, request)).collect();
    match args.output {
        Output::Json => writeln!(out, "{}", to_json(&policy, &principal, &decisions))?,
        Output::Text => text(&policy, &principal, &decisions, out)?,
    }
    Ok(u8::from(decisions.iter().any(|decision| decision.denial.is_some())))
}

fn usage(err: &mut dyn Write, error: &str) -> std::io::Result<u8> {
    writeln!(err, "error: {error}")?;
    Ok(exit::USAGE)
}

fn stdin() -> std::io::Result<String> {
    let mut text = String::new();
    std::io::stdin().take(1024 * 1024).read_to_string(&mut text).map(|_| text)
}

fn identity(args: &ExplainArgs) -> Identity {
    Identity {
        ca: args.ca.as_str().into(),
        common_name: args
            .cn
            .as_deref()
            .map_or(Err(NameRefusal::Missing), |name| Ok(Arc::from(name))),
        uri_sans: args.uri.clone(),
        dns_sans: args.dns.clone(),
        organizations: args.o.clone(),
        distinction: None,
        serial: String::new(),
        issuer: String::new(),
        not_after: 0,
    }
}

/// The decision about one message, and the rights that the message needs.
struct Decision {
    method: &'static str,
    /// Why it is denied; in shadow mode, why enforcement would deny it.
    denial: Option<Denial>,
    /// True if shadow mode forwards it despite `denial`.
    shadowed: bool,
    needs: Vec<Need>,
}

/// A right that a message needs: one verb on one range, a capability or a lease.
struct Need {
    what: String,
    keys: Option<(String, String)>,
    /// The grants that together allow it, or the part that no grant covers.
    by: Result<Vec<GrantId>, String>,
}

impl Decision {
    fn of(principal: &Principal, request: &Request) -> Self {
        let inspected = wire::inspect(request.method, &request.message);
        let (result, needs) = match &inspected {
            Ok(accesses) => {
                (authorize(principal, accesses, &own_leases(accesses)), needs(principal, accesses))
            }
            Err(malformed) => (refuse(principal, Denial::from(*malformed)), Vec::new()),
        };
        let (denial, shadowed) = match result {
            Ok(permit) => (permit.would_deny().cloned(), permit.would_deny().is_some()),
            Err(denial) => (Some(denial), false),
        };
        Self { method: request.method.path(), denial, shadowed, needs }
    }

    fn word(&self) -> &'static str {
        match (&self.denial, self.shadowed) {
            (None, _) => "allow",
            (Some(_), false) => "deny",
            (Some(_), true) => "would_deny",
        }
    }
}

/// Assumes that every lease belongs to the identity: its owner is encoded in the lease id, and only
/// running gateways have the key to read it.
fn own_leases(accesses: &Accesses<'_>) -> Vec<LeaseEvidence> {
    let mut leases: Vec<_> = accesses
        .leases
        .iter()
        .map(|&(id, _)| LeaseEvidence { id, claim: LeaseClaim::Own })
        .collect();
    leases.sort_unstable_by_key(|lease| lease.id);
    leases
}

fn capability_need(principal: &Principal, capability: Capability) -> Need {
    let rights = &principal.rights;
    // As `authorize` has it: `lease-admin` includes `lease`.
    let by_more = || {
        if capability == Capability::Lease {
            rights.capability(Capability::LeaseAdmin)
        } else {
            None
        }
    };
    let by = rights
        .capability(capability)
        .or_else(by_more)
        .map(|grant| vec![grant])
        .ok_or_else(|| "no role gives it".to_owned());
    Need { what: format!("capability {capability}"), keys: None, by }
}

fn needs(principal: &Principal, accesses: &Accesses<'_>) -> Vec<Need> {
    let mut needs = Vec::new();
    needs.extend(accesses.capability.map(|capability| capability_need(principal, capability)));
    for access in &accesses.ranges {
        for verb in access.verbs.iter() {
            let by = principal
                .rights
                .covers(verb, &access.range)
                .map(|_| principal.rights.covering(verb, &access.range));
            let by = by.map_err(|missing| format!("no grant covers {missing}"));
            needs.push(Need {
                what: format!("{verb} {}", access.range),
                keys: Some(keys(&access.range)),
                by,
            });
        }
    }
    for (id, lease_use) in &accesses.leases {
        needs.push(Need {
            what: format!("lease {id:x}, assumed to be its own"),
            keys: None,
            by: Ok(Vec::new()),
        });
        if lease_use.extends_lifetime() && accesses.capability.is_none() {
            needs.push(capability_need(principal, Capability::Lease));
        }
    }
    needs
}

fn keys(range: &KeyRange<'_>) -> (String, String) {
    (Escaped(range.start).to_string(), Escaped(range.range_end()).to_string())
}

/// `ROLE: KEYS (SOURCE)`
pub(super) fn spelled(grant: &Grant) -> String {
    format!("{}: {} ({})", grant.role, grant.text, grant.source)
}

fn text(
    policy: &Policy,
    principal: &Principal,
    decisions: &[Decision],
    out: &mut dyn Write,
) -> std::io::Result<()> {
    writeln!(out, "identity  {}", principal.name)?;
    writeln!(
        out,
        "roles     {}",
        if principal.roles.is_empty() { "none".to_owned() } else { principal.roles.join(", ") }
    )?;
    writeln!(out, "mode      {}", principal.mode)?;
    for decision in decisions {
        writeln!(out)?;
        let method = decision.method;
        match (&decision.denial, decision.shadowed) {
            (None, _) => writeln!(out, "{method}  allowed")?,
            (Some(denial), false) => writeln!(out, "{method}  denied: {denial}")?,
            (Some(denial), true) => {
                writeln!(out, "{method}  forwarded in shadow mode, would be denied: {denial}")?;
            }
        }
        for need in &decision.needs {
            match &need.by {
                Ok(grants) if grants.is_empty() => writeln!(out, "  {}", need.what)?,
                Ok(grants) => {
                    let grants: Vec<String> =
                        grants.iter().filter_map(|id| policy.grant(*id)).map(spelled).collect();
                    writeln!(out, "  {}\n      by {}", need.what, grants.join("\n      and "))?;
                }
                Err(missing) => writeln!(out, "  {}\n      {missing}", need.what)?,
            }
        }
        if decision.needs.is_empty() && decision.denial.is_none() {
            writeln!(out, "  needs only a binding")?;
        }
    }
    Ok(())
}

fn to_json(policy: &Policy, principal: &Principal, decisions: &[Decision]) -> Value {
    let need = |need: &Need| {
        let grants = need.by.as_ref().ok().map(|ids| {
            ids.iter().filter_map(|id| policy.grant(*id)).map(grant_json).collect::<Vec<_>>()
        });
        let (key, range_end) = need.keys.clone().unzip();
        json!({
            "what": need.what,
            "key": key,
            "range_end": range_end,
            "granted": need.by.is_ok(),
            "grants": grants,
            "missing": need.by.as_ref().err(),
        })
    };
    let call = |decision: &Decision| {
        let needs: Vec<Value> = decision.needs.iter().map(need).collect();
        json!({
            "method": decision.method,
            "decision": decision.word(),
            "reason": decision.denial.as_ref().map(|denial| denial.reason.code()),
            "detail": decision.denial.as_ref().map(ToString::to_string),
            "needs": needs,
        })
    };
    let roles: Vec<&str> = principal.roles.iter().map(|role| &**role).collect();
    let calls: Vec<Value> = decisions.iter().map(call).collect();
    json!({
        "identity": &*principal.name,
        "roles": roles,
        "mode": principal.mode.to_string(),
        "policy_hash": &*policy.hash,
        "calls": calls,
    })
}

pub(super) fn grant_json(grant: &Grant) -> Value {
    json!({ "role": &*grant.role, "keys": &*grant.text, "source": &*grant.source })
}
