//! Warns about entries of a role that have no effect: a grant that another grant includes, and a
//! denial of keys that the role does not allow.

use super::check::{Allowed, CheckedRole};
use super::keyset::{KeySet, overlaps};
use super::name::Captures;
use crate::access::Verb;
use crate::diagnostics::{Findings, SourcePosition};
use crate::keyspace::{End, KeyRange, OwnedEnd, OwnedRange, cmp_end_to_key, prefix_end};

/// Adds the warnings about one role. Grants with captures or inner `*` are not checked for
/// inclusion, because their keys depend on the principal.
pub(super) fn warn(role: &CheckedRole, findings: &mut Findings<'_>) {
    for (inner, outer) in included_in_another(&role.allow) {
        findings.warning(
            inner,
            "this grant is included in another grant of the role",
            format!("line {} already grants it; remove one of the two", outer.line),
        );
    }
    for denied in &role.deny {
        let reach = prefix_range(denied.keys.fixed_prefix());
        let touches = |allowed: &Allowed| {
            let shared = Verb::ALL
                .into_iter()
                .any(|verb| allowed.verbs.contains(verb) && denied.verbs.contains(verb));
            shared
                && overlaps(
                    &prefix_range(allowed.keys.fixed_prefix()).as_range(),
                    &reach.as_range(),
                )
        };
        if !role.allow.iter().any(touches) {
            let help = "`deny` in a role restricts that role only; write it in the binding to \
                        restrict all roles of an identity";
            findings.warning(
                denied.position,
                format!("role `{}` does not allow this, so `deny` has no effect", role.name),
                help,
            );
        }
    }
}

/// Grants whose keys and verbs a single other grant includes, each with that grant.
fn included_in_another(allow: &[Allowed]) -> Vec<(SourcePosition, SourcePosition)> {
    let mut ranges: Vec<(OwnedRange, &Allowed)> = allow
        .iter()
        .filter_map(|allowed| match allowed.keys.resolve(&Captures::new())? {
            KeySet::Range(range) => Some((range, allowed)),
            KeySet::Pattern(_) => None,
        })
        .collect();
    // By start, the longest first: then a range comes after every range that includes it.
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

/// True if `outer`, which must not start after `inner`, includes all of it.
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
