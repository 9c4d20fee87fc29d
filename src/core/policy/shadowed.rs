//! Warnings about entries of a role that have no effect: a grant inside another one, a denial of
//! what is not granted.

use super::check::{Allowed, CheckedRole};
use super::keyset::{KeySet, overlap};
use super::name::Captures;
use crate::access::Verb;
use crate::diagnostics::{Findings, SourcePosition};
use crate::keyspace::{End, KeyRange, OwnedEnd, OwnedRange, cmp_end_to_key, prefix_end};

/// Adds the warnings for one role. Keys with captures or inner wildcards are left out of the first
/// question: what they hold is only known per caller.
pub(super) fn warn(role: &CheckedRole, findings: &mut Findings<'_>) {
    for (inner, outer) in inside_another(&role.allow) {
        findings.warning(
            inner,
            "this grant is inside another one of its role",
            format!("line {} gives it already; remove one", outer.line),
        );
    }
    for denied in &role.deny {
        let reach = prefix_range(denied.keys.fixed_prefix());
        let touches = |allowed: &Allowed| {
            let shared =
                Verb::ALL.into_iter().any(|verb| allowed.verbs.has(verb) && denied.verbs.has(verb));
            shared
                && overlap(&prefix_range(allowed.keys.fixed_prefix()).as_range(), &reach.as_range())
        };
        if !role.allow.iter().any(touches) {
            let help = "a role's `deny` takes from that role alone; write it in the binding to take it from everything that an identity gets";
            findings.warning(
                denied.position,
                format!("role `{}` does not allow this, so denying it changes nothing", role.name),
                help,
            );
        }
    }
}

/// Grants whose keys and verbs another single grant holds too, each with that other one.
fn inside_another(allow: &[Allowed]) -> Vec<(SourcePosition, SourcePosition)> {
    let mut ranges: Vec<(OwnedRange, &Allowed)> = allow
        .iter()
        .filter_map(|allowed| match allowed.keys.resolve(&Captures::new())? {
            KeySet::Range(range) => Some((range, allowed)),
            KeySet::Pattern(_) => None,
        })
        .collect();
    // By start, the longest first: whatever holds a range then stands before it.
    ranges.sort_by(|(a, _), (b, _)| a.start.cmp(&b.start).then_with(|| longer_first(a, b)));
    let mut found = Vec::new();
    let mut reaching: Vec<(OwnedRange, &Allowed)> = Vec::new();
    for (range, allowed) in ranges {
        reaching.retain(|(earlier, _)| reaches(earlier, &range.start));
        let outer = reaching.iter().find(|(earlier, other)| {
            holds(earlier, &range) && allowed.verbs.without(other.verbs).is_empty()
        });
        match outer {
            Some((_, other)) => found.push((allowed.position, other.position)),
            None if reaching.len() < 64 => reaching.push((range, allowed)),
            None => {}
        }
    }
    found
}

fn longer_first(a: &OwnedRange, b: &OwnedRange) -> std::cmp::Ordering {
    match (holds(a, b), holds(b, a)) {
        (true, false) => std::cmp::Ordering::Less,
        (false, true) => std::cmp::Ordering::Greater,
        _ => std::cmp::Ordering::Equal,
    }
}

fn reaches(range: &OwnedRange, key: &[u8]) -> bool {
    cmp_end_to_key(&range.as_range(), key) == std::cmp::Ordering::Greater
}

/// Whether `outer`, which does not start behind `inner`, holds all of it.
fn holds(outer: &OwnedRange, inner: &OwnedRange) -> bool {
    match inner.as_range().end {
        End::Open => outer.end == OwnedEnd::Open,
        End::OnlyStart => outer.as_range().contains(&inner.start),
        End::Before(end) => {
            outer.as_range().contains(&inner.start)
                && cmp_end_to_key(&outer.as_range(), end) != std::cmp::Ordering::Less
        }
    }
}

fn prefix_range(prefix: &[u8]) -> OwnedRange {
    let end = prefix_end(prefix);
    KeyRange { start: prefix, end: end.as_deref().map_or(End::Open, End::Before) }.into()
}
