//! Errors between files at a reload: which previous CAs and lists stay in effect.

use std::sync::Arc;

use rustls_pki_types::UnixTime;

use super::{NamedCa, describe_overlap, overlapping};
use crate::tls::material::CertificateReader;
use crate::tls::revocation::{ListFile, RevocationList};

/// Keeps the previous CAs if all new ones have expired. A file that has gained a CA of another file
/// keeps its previous CAs.
pub(super) fn keep_cas(
    reader: &mut CertificateReader<'_>,
    cas: &mut Vec<NamedCa>,
    previous: &[NamedCa],
) {
    let previous_of =
        |ca: &NamedCa| previous.iter().find(|had| had.file == ca.file && had.name == ca.name);
    let now = UnixTime::now();
    if !cas.iter().flat_map(|ca| &ca.authorities).any(|authority| authority.is_in_date(now)) {
        reader.errors.append(&mut reader.expired);
        previous.clone_into(cas);
        return;
    }
    // The previous CAs do not overlap, so that each step brings one file closer to them: as many
    // steps as there are files are enough.
    for _ in 0..cas.len() {
        let has_gained = |ca: &NamedCa, other: &NamedCa| {
            previous_of(ca).is_none_or(|previous| !previous.overlaps(other))
        };
        let Some((ca, other)) = overlapping(cas)
            .next()
            .map(|(ca, other)| if has_gained(ca, other) { (ca, other) } else { (other, ca) })
        else {
            return;
        };
        reader.error(&ca.file, describe_overlap(ca, other));
        let file = ca.file.clone();
        let kept = previous_of(ca).map(|ca| ca.authorities.clone()).unwrap_or_default();
        cas.iter_mut().filter(|ca| ca.file == file).for_each(|ca| ca.authorities.clone_from(&kept));
    }
}

/// Removes lists with the issuer name of a client CA that another key signed. webpki uses the first
/// list that fits a certificate, so that a wrong list would hide the right one. Lists without a
/// client CA of that name are those of intermediate CAs, which each handshake verifies.
pub(super) fn remove_lists_of_other_keys(cas: &[NamedCa], lists: &mut [ListFile]) {
    for (_, lists) in lists {
        lists.retain(|list| !is_of_another_key(cas, list));
    }
}

/// True if client CAs have the name of the list's issuer, but none of them signed it.
fn is_of_another_key(cas: &[NamedCa], list: &RevocationList) -> bool {
    let mut issuers = cas
        .iter()
        .flat_map(|ca| &ca.authorities)
        .filter(|ca| ca.subject() == list.issuer())
        .peekable();
    issuers.peek().is_some() && !issuers.any(|ca| list.is_signed_by(ca))
}

/// Keeps a list that is in date if its replacement is older: an old file, or a copy that was
/// delayed, would restore certificates that were revoked in between. A list signed with another key
/// does not matter: it is of another CA with the same name, which numbers its lists independently.
pub(super) fn keep_newer_lists(
    reader: &mut CertificateReader<'_>,
    cas: &[NamedCa],
    lists: &mut [ListFile],
    previous: &[ListFile],
) {
    let now = UnixTime::now();
    for (file, had) in previous {
        for had in had.iter().filter(|had| had.is_in_date(now) && !is_of_another_key(cas, had)) {
            // All lists of a client CA are signed with its key, as checked before. Those of
            // intermediate CAs may name their key.
            let is_client_ca =
                cas.iter().flat_map(|ca| &ca.authorities).any(|ca| ca.subject() == had.issuer());
            let all =
                lists.iter().flat_map(|(file, lists)| lists.iter().map(move |list| (file, list)));
            let mut candidates = all.filter(|(_, list)| is_client_ca || list.may_have_key_of(had));
            let Some((older_file, older)) =
                candidates.clone().find(|(_, list)| list.is_older_than(had))
            else {
                continue;
            };
            if !candidates.any(|(_, list)| list.replaces(had)) {
                reader.error(older_file, older.describe_older_than(had));
                lists
                    .iter_mut()
                    .filter(|(of, _)| of == file)
                    .for_each(|(_, lists)| lists.push(Arc::clone(had)));
            }
        }
    }
}

/// A CA without a list in date keeps its previous ones, each in its file.
pub(super) fn keep_lists(cas: &[NamedCa], lists: &mut [ListFile], previous: &[ListFile]) {
    let now = UnixTime::now();
    for authority in cas.iter().flat_map(|ca| &ca.authorities) {
        let is_usable =
            |list: &&Arc<RevocationList>| list.is_in_date(now) && list.covers_clients_of(authority);
        if lists.iter().flat_map(|(_, lists)| lists).any(|list| is_usable(&list)) {
            continue;
        }
        for (file, lists) in &mut *lists {
            let previous = previous.iter().filter(|(of, _)| of == file).flat_map(|(_, had)| had);
            lists.extend(previous.filter(is_usable).cloned());
        }
    }
}
