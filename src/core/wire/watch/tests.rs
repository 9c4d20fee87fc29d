use etcd_warden_proto::{etcdserverpb as pb, mvccpb};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::wire::spell::{len, num, wire};

fn header() -> pb::ResponseHeader {
    pb::ResponseHeader { cluster_id: u64::MAX, member_id: 2, revision: 3, raft_term: 4 }
}

#[test]
fn decodes_each_kind_of_request() {
    for (message, expected) in [
        (len(1, wire![len(1, "k")]), WatchRequest::Create(KeyRange::key(b"k"))),
        (len(1, wire![len(1, "k"), len(2, "")]), WatchRequest::Create(KeyRange::key(b"k"))),
        (
            len(1, wire![len(1, "k"), len(2, "\0")]),
            WatchRequest::Create(KeyRange::from_request(b"k", b"\0")),
        ),
        (
            len(1, wire![len(2, "z"), len(1, "k")]),
            WatchRequest::Create(KeyRange::from_request(b"k", b"z")),
        ),
        (len(1, ""), WatchRequest::Create(KeyRange::key(b"\0"))),
        (len(1, len(2, "\0")), WatchRequest::Create(KeyRange::WHOLE)),
        (len(2, num(1, 7)), WatchRequest::Cancel(7)),
        (len(2, ""), WatchRequest::Cancel(0)),
        (len(3, ""), WatchRequest::Progress),
        (vec![], WatchRequest::Nothing),
    ] {
        assert_eq!(request(&message), Ok(expected), "{message:02x?}");
    }
}

#[test]
fn refuses_an_ambiguous_or_unknown_request() {
    for (message, offset, fault) in [
        (wire![len(1, len(1, "k")), len(2, num(1, 7))], 5, Fault::Repeated),
        (wire![len(1, len(1, "k")), len(1, len(1, "l"))], 5, Fault::Repeated),
        (wire![len(1, len(1, "k")), len(9, "")], 5, Fault::UnknownField),
        (len(4, ""), 0, Fault::UnknownField),
        (num(1, 1), 0, Fault::WrongWireType),
        (len(1, wire![len(1, "k"), len(1, "l")]), 5, Fault::Repeated),
        (len(1, num(9, 1)), 2, Fault::UnknownField),
        (len(2, num(2, 1)), 2, Fault::UnknownField),
        (len(3, num(1, 1)), 2, Fault::UnknownField),
        (len(1, len(5, [0x80, 0])), 2, Fault::OverlongVarint),
    ] {
        let malformed = request(&message).unwrap_err();
        assert_eq!((malformed.offset, malformed.fault), (offset, fault), "{message:02x?}");
    }
}

#[test]
fn decodes_a_create_with_every_field() {
    let create = pb::WatchCreateRequest {
        key: b"a".to_vec(),
        range_end: b"b".to_vec(),
        start_revision: -1,
        progress_notify: true,
        filters: vec![0, 1, 1],
        prev_kv: true,
        watch_id: 9,
        fragment: true,
    };
    let message = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    }
    .encode_to_vec();
    assert_eq!(request(&message), Ok(WatchRequest::Create(KeyRange::from_request(b"a", b"b"))));
    let unpacked = len(1, wire![len(1, "a"), num(5, 0), num(5, 1)]);
    assert_eq!(request(&unpacked), Ok(WatchRequest::Create(KeyRange::key(b"a"))));
}

#[test]
fn own_responses_equal_those_of_etcd() {
    let reason = PERMISSION_DENIED.to_owned();
    let refused = pb::WatchResponse::decode(
        &refused_create(&header().encode_to_vec(), PERMISSION_DENIED)[..],
    )
    .unwrap();
    let common = pb::WatchResponse {
        header: Some(header()),
        canceled: true,
        cancel_reason: reason,
        ..Default::default()
    };
    assert_eq!(refused, pb::WatchResponse { watch_id: -1, created: true, ..common.clone() });
    for watch_id in [0, 5, i64::MAX] {
        let ended =
            pb::WatchResponse::decode(&canceled(&header().encode_to_vec(), watch_id)[..]).unwrap();
        assert_eq!(ended, pb::WatchResponse { watch_id, ..common.clone() });
        assert_eq!(request(&cancel_request(watch_id)), Ok(WatchRequest::Cancel(watch_id)));
    }
}

#[test]
fn refuses_a_head_after_another_field() {
    for message in
        [wire![num(2, 1), len(1, "")], wire![num(2, 1), num(2, 2)], wire![num(4, 1), num(3, 1)]]
    {
        assert_eq!(response_head(&message, message.len()).unwrap_err().fault, Fault::OutOfOrder);
    }
    assert_eq!(response_head(&num(1, 1), 2).unwrap_err().fault, Fault::WrongWireType);
    assert_eq!(response_head(&[0x10], 1).unwrap_err().fault, Fault::Truncated);
    assert_eq!(response_head(&[0x0a, 5, 1], 3).unwrap_err().fault, Fault::LengthBeyondMessage);
    // A fault that more bytes cannot resolve is reported at once.
    assert_eq!(response_head(&[0x0b], 100).unwrap_err().fault, Fault::WireType);
    assert_eq!(response_head(&[0x0a, 5, 1], 100), Ok(None));
}

fn responses() -> impl Strategy<Value = pb::WatchResponse> {
    let event = prop::collection::vec(any::<u8>(), 0..40).prop_map(|value| mvccpb::Event {
        kv: Some(mvccpb::KeyValue { value, ..Default::default() }),
        ..Default::default()
    });
    let ids = prop_oneof![Just(-1), Just(0), any::<i64>()];
    (
        any::<bool>(),
        ids,
        any::<bool>(),
        any::<bool>(),
        any::<i64>(),
        any::<bool>(),
        prop::collection::vec(event, 0..4),
    )
        .prop_map(
            |(with_header, watch_id, created, canceled, compact_revision, fragment, events)| {
                pb::WatchResponse {
                    header: with_header.then(header),
                    watch_id,
                    created,
                    canceled,
                    compact_revision,
                    cancel_reason: String::new(),
                    fragment,
                    events,
                }
            },
        )
}

proptest! {
    #[test]
    fn a_head_does_not_depend_on_where_the_message_is_cut(response in responses()) {
        let message = response.encode_to_vec();
        let header = response.header.map(|header| header.encode_to_vec()).unwrap_or_default();
        let head = ResponseHead {
            header: &header,
            watch_id: response.watch_id,
            created: response.created,
            canceled: response.canceled,
        };
        prop_assert_eq!(response_head(&message, message.len()), Ok(Some(head)));
        let mut known = false;
        for cut in 0..=message.len() {
            match response_head(&message[..cut], message.len()).unwrap() {
                None => prop_assert!(!known, "known before, unknown with {} bytes", cut),
                Some(seen) => {
                    prop_assert_eq!(seen, head);
                    known = true;
                }
            }
        }
        prop_assert!(known);
        let longer = [&message[..], b"next message"].concat();
        prop_assert_eq!(response_head(&longer, message.len()), Ok(Some(head)));
    }
}
