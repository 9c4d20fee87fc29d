use proptest::prelude::*;

use super::super::cost::{ALLOWANCE, TURN};
use super::super::frame::{CONTINUATION, END_HEADERS, GOAWAY, PING};
use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn client() -> Layer {
    on(Terms::ENFORCED)
}

fn on(terms: Terms) -> Layer {
    let mut layer = Layer::new(terms);
    pass(&mut layer, &[0; PREFACE]);
    layer
}

/// All that goes on of `bytes`, over as many turns as it takes.
fn pass(layer: &mut Layer, bytes: &[u8]) -> Vec<u8> {
    pieces(layer, bytes, bytes.len().max(1)).0
}

/// The same in pieces of that size, and what is left.
fn pieces(layer: &mut Layer, bytes: &[u8], size: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut held, mut out, mut wanted) = (Vec::new(), Vec::new(), 0);
    for piece in bytes.chunks(size) {
        held.extend_from_slice(piece);
        while held.len() >= wanted.max(1) && layer.refusal().is_none() {
            let received = layer.receive(&mut held);
            out.extend_from_slice(&held[..received.passed]);
            held.drain(..received.taken);
            wanted = if held.is_empty() { 0 } else { received.wanted };
            if !layer.end_turn() {
                break;
            }
        }
    }
    (out, held)
}

fn head(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &[0x83, 0x87])
}

fn flip(window: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat())
}

/// Where a frame ends within a field, `h2` forgets what it has found malformed.
#[test]
fn a_block_in_many_frames_becomes_one() {
    let block = [&[0x83, 0x87, 0x04, 2][..], b"/a", &[0x0f, 0x10, 1], b"x"].concat();
    let whole = frame(HEADERS, END_HEADERS, 1, &block);
    for cut in 1..block.len() {
        let (first, last) = block.split_at(cut);
        let frames =
            [frame(HEADERS, 0, 1, first), frame(CONTINUATION, END_HEADERS, 1, last)].concat();
        assert_eq!(pass(&mut client(), &frames), whole, "cut at {cut}");
        let priority = [0, 0, 0, 0, 7];
        let begun = [&[3][..], &priority, first, &[0; 3]].concat();
        let frames =
            [frame(HEADERS, 8 | 32, 1, &begun), frame(CONTINUATION, END_HEADERS, 1, last)].concat();
        assert_eq!(
            pass(&mut client(), &frames),
            frame(HEADERS, END_HEADERS | 32, 1, &[&priority[..], &block].concat()),
            "cut at {cut}"
        );
    }
    let single =
        block.iter().map(|byte| frame(CONTINUATION, 0, 1, &[*byte])).collect::<Vec<_>>().concat();
    let frames =
        [frame(HEADERS, 0, 1, b""), single, frame(CONTINUATION, END_HEADERS, 1, b"")].concat();
    assert_eq!(pass(&mut client(), &frames), whole);
}

#[test]
fn data_that_comes_together_is_one_frame_and_empty_data_none() {
    let mut layer = client();
    let sent = [
        head(1, 0),
        frame(DATA, 0, 1, b""),
        frame(DATA, 0, 1, b"a"),
        frame(DATA, 0, 1, b""),
        frame(DATA, 0, 1, b"bc"),
        frame(DATA, END_STREAM, 1, b""),
    ];
    assert_eq!(
        pass(&mut layer, &sent.concat()),
        [head(1, 0), frame(DATA, END_STREAM, 1, b"abc")].concat()
    );
    let other = [
        frame(DATA, 0, 1, b""),
        head(3, 0),
        frame(DATA, PADDED, 3, b"\x01a\0"),
        frame(PING, 0, 0, b"12345678"),
    ]
    .concat();
    assert_eq!(
        pass(&mut layer, &other),
        other,
        "what is not in its place, or padded, is not touched"
    );
}

#[test]
fn window_changes_are_charged_by_the_streams_that_they_move() {
    let flips = |streams: u32| {
        let mut layer = client();
        for stream in 0..streams {
            pass(&mut layer, &head(2 * stream + 1, END_STREAM));
        }
        (1..).find(|n| {
            pass(&mut layer, &flip(65_535 + n));
            layer.refusal().is_some()
        })
    };
    assert!(flips(1).is_some_and(|flips| flips > 100_000));
    assert!(flips(9_990).is_some_and(|flips| flips < 400));
    let mut layer = client();
    pass(&mut layer, &head(1, 0));
    for _ in 0..ALLOWANCE / 4 {
        pass(&mut layer, &flip(65_535));
    }
    assert_eq!(layer.refusal(), None, "what moves nothing is a frame like any other");
}

#[test]
fn a_turn_ends_by_its_work_and_the_rest_waits() {
    let mut layer = client();
    let mut pings = frame(PING, 0, 0, b"12345678").repeat(800);
    let received = layer.receive(&mut pings);
    assert_eq!(received.passed, received.taken);
    assert!(layer.end_turn() && layer.has_yielded() && !layer.has_yielded());
    assert_eq!(received.passed, usize::try_from(TURN / 2).unwrap() * 17);
    assert_eq!(layer.receive(&mut pings[received.taken..]).passed, 800 * 17 - received.taken);
}

#[test]
fn ten_thousand_streams_can_be_given_up_at_once_but_not_for_ever() {
    let mut layer = on(Terms::SHADOWED);
    for stream in 0..10_000 {
        pass(&mut layer, &head(2 * stream + 1, 0));
    }
    for stream in 0..10_000 {
        pass(&mut layer, &frame(RST_STREAM, 0, 2 * stream + 1, &[0, 0, 0, 8]));
    }
    assert_eq!((layer.refusal(), layer.streams.open()), (None, 0));
    for stream in 10_000..15_000 {
        pass(
            &mut layer,
            &[head(2 * stream + 1, 0), frame(RST_STREAM, 0, 2 * stream + 1, &[0, 0, 0, 8])]
                .concat(),
        );
    }
    assert_eq!(layer.refusal(), Some(Refusal::Flood(RST_STREAM)));
    assert_eq!(pass(&mut layer, &head(40_001, 0)), b"", "nothing more goes on");
    let mut enforced = client();
    let given_up = (0..).find(|n| {
        pass(
            &mut enforced,
            &[head(2 * n + 1, 0), frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat(),
        );
        enforced.refusal().is_some()
    });
    assert_eq!(given_up, Some(4000));
}

#[test]
fn what_answers_ours_is_given_back() {
    let mut layer = client();
    pass(&mut layer, &head(1, END_STREAM));
    for _ in 0..2 * ALLOWANCE {
        layer.sent(&frame(DATA, 0, 1, b"x"));
        pass(&mut layer, &[frame(8, 0, 0, &[0, 0, 0, 1]), frame(8, 0, 1, &[0, 0, 0, 1])].concat());
    }
    assert_eq!(layer.refusal(), None);
}

#[test]
fn what_h2_does_not_look_at_after_an_early_answer_is_found() {
    let early = || {
        let mut layer = client();
        pass(&mut layer, &head(1, 0));
        layer.sent(
            &[frame(HEADERS, END_HEADERS | END_STREAM, 1, b""), frame(RST_STREAM, 0, 1, &[0; 4])]
                .concat(),
        );
        layer
    };
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x0f, 0x2b, 1, b't']);
    let broken = |layer: &Layer| match layer.refusal() {
        Some(Refusal::Broken { code, .. }) => Some(code),
        _ => None,
    };
    let mut layer = early();
    pass(&mut layer, &[frame(DATA, 0, 1, b"late"), trailers.clone()].concat());
    assert_eq!(layer.refusal(), None, "it was under way");
    pass(&mut layer, &trailers);
    assert_eq!(broken(&layer), Some(STREAM_CLOSED));

    let mut layer = early();
    pass(&mut layer, &[frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), trailers].concat());
    assert_eq!(broken(&layer), Some(STREAM_CLOSED));

    for late in [head(1, 0), head(1, END_STREAM)] {
        let mut layer = early();
        pass(&mut layer, &late);
        assert_eq!(broken(&layer), Some(PROTOCOL_ERROR));
    }
}

#[test]
fn what_is_refused_by_error_is_noted_however_it_is_written() {
    let written = [
        frame(RST_STREAM, 0, 1, &[0, 0, 0, 1]),
        frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]),
        frame(DATA, 0, 5, b"some"),
        frame(RST_STREAM, 0, 7, &[0, 0, 0, 1]),
        frame(GOAWAY, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 11, b'?']),
    ]
    .concat();
    for size in 1..written.len() {
        let mut layer = client();
        written.chunks(size).for_each(|piece| layer.sent(piece));
        let rejected = Rejected { streams: [(1, 2)].into(), connection: Some(11) };
        assert_eq!(
            (layer.rejected(), layer.rejected()),
            (Some(rejected), None),
            "in pieces of {size}"
        );
    }
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let block = proptest::collection::vec(
        prop_oneof![Just(0x83_u8), Just(0x87), Just(0x41), Just(2), any::<u8>()],
        0..30,
    );
    (
        prop_oneof![0..11_u8, Just(DATA), Just(HEADERS), Just(CONTINUATION)],
        any::<u8>(),
        prop_oneof![0..12_u32, Just(0x7fff_ffff)],
        prop_oneof![3 => block, 1 => proptest::collection::vec(any::<u8>(), 0..300)],
    )
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    #[test]
    fn in_what_pieces_bytes_come_makes_no_difference_but_for_data(frames in proptest::collection::vec(any_frame(), 0..40), size in 1..40_usize) {
        let bytes = frames.concat();
        let (mut whole, mut cut) = (client(), client());
        let (at_once, left) = pieces(&mut whole, &bytes, bytes.len().max(1));
        let (in_pieces, left_over) = pieces(&mut cut, &bytes, size);
        prop_assert_eq!(whole.refusal(), cut.refusal());
        prop_assert_eq!(content(&at_once), content(&in_pieces));
        if whole.refusal().is_none() {
            prop_assert_eq!(left, left_over);
        }
        prop_assert!(at_once.len() <= bytes.len());
        prop_assert_eq!(whole.streams.open(), cut.streams.open());
    }
}

/// Frames, with DATA of one stream on end put together.
fn content(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames: Vec<(u8, u8, u32, Vec<u8>)> = Vec::new();
    while let Some(head) = Head::read(bytes) {
        let payload = bytes.get(HEADER..).unwrap_or_default();
        let payload = payload.get(..head.length).unwrap_or(payload).to_vec();
        bytes = bytes.get(HEADER + head.length..).unwrap_or_default();
        match frames.last_mut() {
            Some((DATA, flags, stream, before))
                if head.kind == DATA
                    && *stream == head.stream
                    && (*flags | head.flags) & PADDED == 0
                    && *flags & END_STREAM == 0 =>
            {
                before.extend(payload);
                *flags |= head.flags;
            }
            _ => frames.push((head.kind, head.flags, head.stream, payload)),
        }
    }
    frames
}
