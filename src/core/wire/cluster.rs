//! Rewrites the client URLs in responses of the Cluster service.

use super::encode;
use super::field::{Fields, Part, Value};
use super::message::{Kind, kind};
use super::{Fault, Malformed};
use crate::method::Method;

/// Replaces the client URLs in a response of the Cluster service. `url_for` returns the URL for a
/// member's name, or `None` to keep the URLs of that member. A member without URLs (it has not
/// started) gets none. Everything else is copied byte for byte, and so is the response of any other
/// method.
///
/// # Errors
/// If `response` is not a valid message.
pub fn replace_client_urls<'u>(
    method: Method,
    response: &[u8],
    mut url_for: impl FnMut(&str) -> Option<&'u str>,
) -> Result<Vec<u8>, Malformed> {
    // MemberAddResponse has `member` as 2 and `members` as 3, the others `members` as 2.
    let (name, members): (_, &[u32]) = match method {
        Method::MemberAdd => ("MemberAddResponse", &[2, 3]),
        Method::MemberList => ("MemberListResponse", &[2]),
        Method::MemberRemove => ("MemberRemoveResponse", &[2]),
        Method::MemberUpdate => ("MemberUpdateResponse", &[2]),
        Method::MemberPromote => ("MemberPromoteResponse", &[2]),
        _ => return Ok(response.to_vec()),
    };
    let mut out = Vec::with_capacity(response.len().saturating_add(64));
    let mut fields = Fields::of(name, Part::whole(response));
    let mut rest = fields.rest();
    while let Some(field) = fields.next()? {
        let raw = consumed(rest, fields.rest());
        rest = fields.rest();
        match field.value {
            Value::Bytes(member) if members.contains(&field.number) => {
                encode::bytes(&mut out, field.number, &member_with(member, &mut url_for)?);
            }
            _ if members.contains(&field.number) => {
                return Err(field.fault(name, Fault::WrongWireType));
            }
            _ => out.extend_from_slice(raw),
        }
    }
    Ok(out)
}

/// Rewrites one `Member`: the new URL replaces the first of `clientURLs`, the others are removed.
fn member_with<'u>(
    member: Part<'_>,
    url_for: &mut impl FnMut(&str) -> Option<&'u str>,
) -> Result<Vec<u8>, Malformed> {
    let mut name = "";
    let mut fields = Fields::of(MEMBER, member);
    while let Some(field) = fields.next()? {
        if field.number == 2 {
            let text = kind::bytes::read(&field)
                .and_then(|bytes| std::str::from_utf8(bytes).map_err(|_| Fault::NotUtf8));
            name = text.map_err(|fault| field.fault("Member.name", fault))?;
        }
    }
    let Some(url) = url_for(name) else { return Ok(member.bytes.to_vec()) };

    let mut out = Vec::with_capacity(member.bytes.len().saturating_add(url.len()));
    let mut written = false;
    let mut fields = Fields::of(MEMBER, member);
    let mut rest = fields.rest();
    while let Some(field) = fields.next()? {
        if field.number != CLIENT_URLS {
            out.extend_from_slice(consumed(rest, fields.rest()));
        } else if !written {
            encode::bytes(&mut out, CLIENT_URLS, url.as_bytes());
            written = true;
        }
        rest = fields.rest();
    }
    Ok(out)
}

/// The bytes of the field that was read between two remainders of the same message.
fn consumed<'m>(before: &'m [u8], after: &[u8]) -> &'m [u8] {
    before
        .split_at_checked(before.len().saturating_sub(after.len()))
        .map_or(before, |(field, _)| field)
}

const MEMBER: &str = "Member";
const CLIENT_URLS: u32 = 4;

#[cfg(test)]
mod tests {
    use etcd_warden_proto::etcdserverpb as pb;
    use prost::Message as _;

    use super::*;

    fn member(id: u64, name: &str, urls: &[&str]) -> pb::Member {
        let client_ur_ls = urls.iter().map(|&url| url.to_owned()).collect();
        pb::Member {
            id,
            name: name.to_owned(),
            peer_ur_ls: vec!["https://peer:2380".to_owned()],
            client_ur_ls,
            is_learner: id == 3,
        }
    }

    fn by_name(name: &str) -> Option<&'static str> {
        match name {
            "a" => Some("https://proxy-a:2379"),
            "b" => Some("https://proxy-b:2379"),
            _ => None,
        }
    }

    #[test]
    fn replaces_only_the_urls_of_started_members() {
        let header = Some(pb::ResponseHeader { member_id: 7, ..Default::default() });
        let before = vec![
            member(1, "a", &["https://one:1", "https://two:2"]),
            member(2, "b", &[]),
            member(3, "c", &["https://three:3"]),
        ];
        let after = vec![
            member(1, "a", &["https://proxy-a:2379"]),
            member(2, "b", &[]),
            member(3, "c", &["https://three:3"]),
        ];
        let list = pb::MemberListResponse { header, members: before.clone() }.encode_to_vec();
        for method in
            [Method::MemberList, Method::MemberRemove, Method::MemberUpdate, Method::MemberPromote]
        {
            let out = replace_client_urls(method, &list, by_name).unwrap();
            assert_eq!(
                pb::MemberListResponse::decode(&out[..]).unwrap(),
                pb::MemberListResponse { header, members: after.clone() }
            );
        }
        let add =
            pb::MemberAddResponse { header, member: Some(before[0].clone()), members: before }
                .encode_to_vec();
        let out = replace_client_urls(Method::MemberAdd, &add, by_name).unwrap();
        let expected =
            pb::MemberAddResponse { header, member: Some(after[0].clone()), members: after };
        assert_eq!(pb::MemberAddResponse::decode(&out[..]).unwrap(), expected);
    }

    #[test]
    fn keeps_unknown_fields_and_members_without_a_new_url() {
        let mut list = pb::MemberListResponse {
            header: None,
            members: vec![member(1, "a", &["https://one:1"])],
        }
        .encode_to_vec();
        list.extend_from_slice(b"\xf8\x07\x05");
        assert_eq!(replace_client_urls(Method::MemberList, &list, |_| None).unwrap(), list);
        assert_eq!(
            replace_client_urls(Method::Status, b"\x12\x02\x22\x00", by_name).unwrap(),
            b"\x12\x02\x22\x00"
        );
        let out = replace_client_urls(Method::MemberList, &list, by_name).unwrap();
        assert!(out.ends_with(b"\xf8\x07\x05"));
    }

    #[test]
    fn refuses_a_malformed_member_list() {
        for (bytes, fault) in [
            (&b"\x10\x01"[..], Fault::WrongWireType),
            (b"\x12\x04\x12\x05ab", Fault::LengthBeyondMessage),
            (b"\x12\x03\x12\x01\xff", Fault::NotUtf8),
        ] {
            assert_eq!(
                replace_client_urls(Method::MemberList, bytes, by_name).unwrap_err().fault,
                fault
            );
        }
    }
}
