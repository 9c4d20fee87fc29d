use proptest::collection::vec;
use proptest::prelude::*;

use super::super::cost::{ALLOWANCE, TURN};
use super::super::frame::{CONTINUATION, END_HEADERS, GOAWAY, PING};
use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn client() -> Layer {
    on(CostLimits::ENFORCED)
}

fn on(limits: CostLimits) -> Layer {
    let mut layer = Layer::new(limits);
    pass(&mut layer, &[0; PREFACE]);
    layer
}

/// Passes `bytes` through, over any number of turns, and returns what `h2` gets.
fn pass(layer: &mut Layer, bytes: &[u8]) -> Vec<u8> {
    pieces(layer, bytes, bytes.len().max(1)).0
}

/// The same in pieces of this size. Also returns what was not inspected.
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

/// `h2` forgets that a block is malformed where a frame ends within a field.
#[test]
fn merges_the_frames_of_a_block() {
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
fn merges_consecutive_data_and_drops_empty_data() {
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
    assert_eq!(pass(&mut layer, &other), other, "padded or misplaced frames are not changed");
}

#[test]
fn charges_window_changes_by_open_streams() {
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
    assert_eq!(layer.refusal(), None, "a window that does not change costs one frame");
}

#[test]
fn a_turn_ends_after_its_work_and_the_rest_waits() {
    let mut layer = client();
    let mut pings = frame(PING, 0, 0, b"12345678").repeat(800);
    let received = layer.receive(&mut pings);
    assert_eq!(received.passed, received.taken);
    assert!(layer.end_turn() && layer.has_yielded() && !layer.has_yielded());
    assert_eq!(received.passed, usize::try_from(TURN / 2).unwrap() * 17);
    assert_eq!(layer.receive(&mut pings[received.taken..]).passed, 800 * 17 - received.taken);
}

#[test]
fn allows_ten_thousand_resets_at_once_but_not_forever() {
    let mut layer = on(CostLimits::SHADOWED);
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
    assert_eq!(pass(&mut layer, &head(40_001, 0)), b"", "nothing more passes");
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
fn refunds_the_frames_that_answer_ours() {
    let mut layer = client();
    pass(&mut layer, &head(1, END_STREAM));
    for _ in 0..2 * ALLOWANCE {
        layer.sent(&frame(DATA, 0, 1, b"x"));
        pass(&mut layer, &[frame(8, 0, 0, &[0, 0, 0, 1]), frame(8, 0, 1, &[0, 0, 0, 1])].concat());
    }
    assert_eq!(layer.refusal(), None);
}

#[test]
fn detects_errors_on_streams_that_we_have_reset() {
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
    let error = |layer: &Layer| match layer.refusal() {
        Some(Refusal::ProtocolError { code, .. }) => Some(code),
        _ => None,
    };
    let mut layer = early();
    pass(&mut layer, &[frame(DATA, 0, 1, b"late"), trailers.clone()].concat());
    assert_eq!(layer.refusal(), None, "it was sent before the reset arrived");
    pass(&mut layer, &trailers);
    assert_eq!(error(&layer), Some(STREAM_CLOSED));

    let mut layer = early();
    pass(&mut layer, &[frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), trailers].concat());
    assert_eq!(error(&layer), Some(STREAM_CLOSED));

    for late in [head(1, 0), head(1, END_STREAM)] {
        let mut layer = early();
        pass(&mut layer, &late);
        assert_eq!(error(&layer), Some(PROTOCOL_ERROR));
    }
}

#[test]
fn reports_rejections_for_any_write_boundaries() {
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

/// A client can open streams that our GOAWAY has excluded for as long as the connection lasts, and
/// `h2` never reports them.
#[test]
fn forgets_malformed_streams_that_a_goaway_excludes() {
    let mut layer = client();
    // A head without a path.
    let malformed = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x83, 0x87]);
    pass(&mut layer, &[malformed(1), malformed(3)].concat());
    layer.sent(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    for stream in 2..1000 {
        pass(&mut layer, &malformed(2 * stream + 1));
    }
    assert_eq!(layer.malformed.len(), 1);
    assert!(layer.take_malformed(1) && !layer.take_malformed(1) && !layer.take_malformed(3));
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let block =
        vec(prop_oneof![Just(0x83_u8), Just(0x87), Just(0x41), Just(2), any::<u8>()], 0..30);
    (
        prop_oneof![0..11_u8, Just(DATA), Just(HEADERS), Just(CONTINUATION)],
        any::<u8>(),
        prop_oneof![0..12_u32, Just(0x7fff_ffff)],
        prop_oneof![3 => block, 1 => vec(any::<u8>(), 0..300)],
    )
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    #[test]
    fn read_boundaries_change_only_the_merging_of_data(
        frames in vec(any_frame(), 0..40),
        size in 1..40_usize,
    ) {
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

/// Frames, with consecutive DATA of one stream merged.
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
