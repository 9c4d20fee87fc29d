use proptest::prelude::*;

use super::*;

#[test]
fn a_unary_body_is_exactly_one_message() {
    for (body, expected) in [
        (&b"\0\0\0\0\x02hi"[..], Ok(&b"hi"[..])),
        (b"\0\0\0\0\0", Ok(b"")),
        (b"", Err(FrameFault::NoMessage)),
        (b"\0\0\0\0", Err(FrameFault::Cut)),
        (b"\0\0\0\0\x03hi", Err(FrameFault::Cut)),
        (b"\0\0\0\0\x02hi\0", Err(FrameFault::Several)),
        (b"\0\0\0\0\x01h\0\0\0\0\0", Err(FrameFault::Several)),
        (b"\x01\0\0\0\x02hi", Err(FrameFault::Compressed)),
        (b"\x02\0\0\0\x02hi", Err(FrameFault::BadFlag)),
        (b"\x80\0\0\0\x02hi", Err(FrameFault::BadFlag)),
        (b"\0\0\0\0\x05hello", Err(FrameFault::TooLarge { length: 5, limit: 4 })),
        (b"\0\xff\xff\xff\xff", Err(FrameFault::TooLarge { length: u32::MAX, limit: 4 })),
        (b"\x01\0\0\0\x05hello", Err(FrameFault::TooLarge { length: 5, limit: 4 })),
    ] {
        assert_eq!(single(body, 4), expected, "{body:02x?}");
    }
}

#[test]
fn reports_a_compressed_message() {
    let body = b"\x01\0\0\0\x02hi";
    assert_eq!(only(body, 4), Ok(Message { compressed: true, bytes: b"hi" }));
    assert_eq!(only(&encode(b"hi"), 4), Ok(Message { compressed: false, bytes: b"hi" }));
    assert!(is_compressed(body) && !is_compressed(&encode(b"hi")) && !is_compressed(b""));
    let mut frames = Frames::new(4);
    frames.push(Bytes::from_static(body));
    assert_eq!(frames.next().unwrap().unwrap(), Bytes::from_static(body));
}

#[test]
fn a_frame_in_one_chunk_is_not_copied() {
    let chunk = [encode(b"one"), encode(b""), encode(b"three")].concat();
    let chunk = Bytes::from(chunk);
    let mut frames = Frames::new(100);
    frames.push(chunk.clone());
    let first = frames.next().unwrap().unwrap();
    assert_eq!(first.as_ptr(), chunk.as_ptr());
    assert_eq!(first, encode(b"one"));
    assert_eq!(frames.next().unwrap().unwrap(), encode(b""));
    assert_eq!(frames.next().unwrap().unwrap(), encode(b"three"));
    assert_eq!(frames.next(), Ok(None));
    assert!(frames.is_empty());
}

#[test]
fn copies_only_frames_that_span_chunks() {
    let mut frames = Frames::new(100);
    let whole = encode(b"message");
    frames.push(whole.slice(..3));
    assert_eq!((frames.len(), frames.is_empty()), (3, false));
    frames.push(whole.slice(3..));
    assert_eq!(frames.len(), whole.len());
    let joined = frames.next().unwrap().unwrap();
    assert_eq!(joined, whole);
    assert_ne!(joined.as_ptr(), whole.as_ptr());
    assert_eq!((frames.len(), frames.is_empty()), (0, true));
    for _ in 0..2 {
        frames.push(whole.clone());
        assert_eq!(frames.next().unwrap().unwrap().as_ptr(), whole.as_ptr());
    }
}

#[test]
fn an_invalid_header_is_refused_at_once_and_for_good() {
    let mut frames = Frames::new(4);
    frames.push(Bytes::from_static(b"\0\0\0\0"));
    assert_eq!(frames.next(), Ok(None));
    frames.push(Bytes::from_static(b"\x05"));
    assert_eq!(frames.next(), Err(FrameFault::TooLarge { length: 5, limit: 4 }));
    frames.push(Bytes::from_static(b"hello"));
    assert_eq!(frames.next(), Err(FrameFault::TooLarge { length: 5, limit: 4 }));
    assert!(!frames.is_empty());
}

#[test]
fn faults_have_texts_for_clients() {
    let texts: Vec<String> =
        [FrameFault::Compressed, FrameFault::TooLarge { length: 9, limit: 4 }, FrameFault::Cut]
            .iter()
            .map(FrameFault::to_string)
            .collect();
    assert_eq!(
        texts,
        [
            "the message is compressed",
            "the message of 9 bytes is larger than the limit of 4",
            "the request ends inside a message"
        ]
    );
}

proptest! {
    #[test]
    fn frames_do_not_depend_on_how_the_stream_is_cut(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12),
        cuts in prop::collection::vec(0_usize..30, 1..40),
        drain_at_end: bool,
    ) {
        let stream =
            Bytes::from(messages.iter().flat_map(|message| encode(message)).collect::<Vec<u8>>());
        let (mut frames, mut seen, mut rest) = (Frames::new(40), Vec::new(), stream);
        for cut in cuts.iter().cycle().map(|&cut| cut + 1) {
            if rest.is_empty() {
                break;
            }
            frames.push(rest.split_to(cut.min(rest.len())));
            while let Some(frame) = if drain_at_end { None } else { frames.next().unwrap() } {
                seen.push(frame);
            }
        }
        while let Some(frame) = frames.next().unwrap() {
            seen.push(frame);
        }
        prop_assert!(frames.is_empty());
        prop_assert_eq!(seen, messages.iter().map(|message| encode(message)).collect::<Vec<_>>());
    }
}
