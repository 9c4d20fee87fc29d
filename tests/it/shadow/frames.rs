//! Random HTTP/2 frames of clients: a connection through a shadowing proxy continues or ends as at
//! etcd. The frames are written by hand, because no client library sends them.

use etcd_warden_core::method::Method;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_testbed::pki::Leaf;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::twins::Twins;
use super::{ALICE, policy};
use crate::oracle::rng::Rng;
use crate::world::raw::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame,
};
use crate::world::raw::{framed, tls_over};
use crate::world::{SOON, authorities, root};

const PRIORITY: u8 = 2;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const PADDED: u8 = 8;

/// The comparable outcome of a call.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Its response has ended; bytes of message.
    Answered(usize),
    Reset(u32),
    /// The connection ended first.
    Closed,
}

/// A client that writes frames.
struct Writer<'d> {
    rng: &'d mut Rng,
    next: u32,
    out: Vec<u8>,
    said: Vec<String>,
    /// The `:authority` of the newest call.
    authority: Vec<u8>,
}

impl Writer<'_> {
    fn id(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    fn put(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.out.extend(frame(kind, flags, stream, payload));
    }

    /// A header block with `:authority` at a random position among the pseudo-headers, in a random
    /// form.
    fn block(&mut self, method: Method) -> Vec<u8> {
        let value: &[u8] = self.rng.of(&[
            &b"#initially=[https://127.0.0.1:2379]"[..],
            b"%23initially=%5Bhttps%3A%2F%2Fx%3A2379%5D",
            b"10.0.0.1:2379,10.0.0.2:2379",
            b"/var/run/etcd.sock",
            b"",
            b"a b",
            b"etcd:2379",
            b"[::1]:65536",
            b"a\tb",
            "\u{fc}ber".as_bytes(),
        ]);
        let mut authority = match self.rng.below(6) {
            // An empty one from the static table.
            5 => vec![0x81],
            0 => vec![0x41],
            1 => vec![0x01],
            2 => vec![0x11],
            3 => [&[0x40, 10][..], b":authority"].concat(),
            _ => [&[0x00, 0x88][..], &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f]].concat(),
        };
        if authority == [0x81] {
            self.authority = Vec::new();
        } else {
            authority.push(u8::try_from(value.len()).unwrap());
            authority.extend(value);
            self.authority = value.to_vec();
        }
        // Pseudo-headers that are not added to the table, so that an empty `:authority` may precede
        // them too.
        let mut pseudo = vec![vec![0x83], vec![0x87], text(&[0x04], method.path())];
        pseudo.insert(self.rng.below(4), authority);
        [pseudo.concat(), metadata()].concat()
    }

    fn head(&mut self, method: Method, flags: u8) -> u32 {
        let (id, block) = (self.id(), self.block(method));
        match self.rng.below(3) {
            0 => {
                let cut = 1 + self.rng.below(block.len() - 1);
                self.put(HEADERS, flags, id, &block[..cut]);
                self.put(CONTINUATION, END_HEADERS, id, &block[cut..]);
            }
            1 => self.put(
                HEADERS,
                flags | END_HEADERS | PADDED,
                id,
                &[&[3][..], &block, &[0; 3]].concat(),
            ),
            _ => self.put(
                HEADERS,
                flags | END_HEADERS | 32,
                id,
                &[&[0, 0, 0, 0, 16][..], &block].concat(),
            ),
        }
        id
    }

    fn call(&mut self) -> u32 {
        let id = self.head(Method::Range, 0);
        self.put(DATA, END_STREAM, id, &range());
        id
    }

    /// Other frames beside a call.
    fn something(&mut self) {
        let times = 1 + self.rng.below(400);
        let what = self.rng.below(9);
        self.said.push(format!("{what}, {times} times"));
        match what {
            0 => (0..times).for_each(|_| {
                let id = self.head(Method::Range, 0);
                self.put(RST_STREAM, 0, id, &[0, 0, 0, 8]);
            }),
            1 => {
                let id = self.head(Method::Range, 0);
                (0..times).for_each(|_| self.put(DATA, 0, id, b""));
                self.put(DATA, END_STREAM, id, &range());
            }
            2 => (0..times).for_each(|_| {
                let id = self.head(Method::Range, 0);
                self.put(DATA, 0, id, b"");
                self.put(DATA, END_STREAM, id, &range());
            }),
            3 => {
                let id = self.head(Method::LeaseKeepAlive, 0);
                let message = framed(&pb::LeaseKeepAliveRequest { id: 5 }.encode_to_vec());
                // Within the initial window of a connection to etcd.
                (0..2 * times).for_each(|_| self.put(DATA, 0, id, &message));
            }
            4 => {
                let (id, body) = (self.head(Method::Range, 0), range());
                body.iter().for_each(|byte| self.put(DATA, 0, id, &[*byte]));
                self.put(DATA, END_STREAM, id, b"");
            }
            5 => (0..times).for_each(|n| {
                self.put(
                    SETTINGS,
                    0,
                    0,
                    &[&[0, 4][..], &(65_536 + n as u32 % 2).to_be_bytes()].concat(),
                );
            }),
            6 => (0..times).for_each(|_| self.put(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
            7 => (0..times).for_each(|_| self.put(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
            _ => (0..times).for_each(|n| self.put(0x20 + (n % 50) as u8, 0, 0, b"?")),
        }
    }
}

/// A header whose name these bytes begin with.
fn text(name: &[u8], value: &str) -> Vec<u8> {
    [name, &[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
}

/// The headers that every call has.
fn metadata() -> Vec<u8> {
    [text(&[0x0f, 0x10], "application/grpc"), text(&[0x40, 2, b't', b'e'], "trailers")].concat()
}

/// A connection to etcd itself.
async fn direct(twins: &Twins) -> TlsStream<TcpStream> {
    let address = twins.direct.addresses()[0];
    let tcp = TcpStream::connect(address).await.unwrap();
    tls_over(tcp, &authorities().upstream, address, Some(root()), &[b"h2"], rustls::ALL_VERSIONS)
        .await
        .unwrap()
}

/// True if a byte may be part of a host (`httpguts.ValidHostHeader`).
fn is_of_a_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(&byte)
}

fn range() -> Vec<u8> {
    framed(&pb::RangeRequest { key: b"/own/a".into(), ..Default::default() }.encode_to_vec())
}

/// Sends all of it and reads until the last call has ended.
async fn outcome(stream: TlsStream<TcpStream>, bytes: &[u8], last: u32) -> Outcome {
    let (mut read, mut write) = tokio::io::split(stream);
    let bytes = bytes.to_vec();
    let writer = tokio::spawn(async move {
        let _ = write.write_all(&bytes).await;
        write
    });
    let reading = async {
        let (mut said, mut piece, mut body) = (Vec::new(), vec![0; 1 << 16], 0);
        loop {
            let Ok(length @ 1..) = read.read(&mut piece).await else { return Outcome::Closed };
            said.extend_from_slice(&piece[..length]);
            let mut at = 0;
            while let Some(&[a, b, c, kind, flags, ref id @ ..]) = said.get(at..at + 9) {
                let end = at + 9 + u32::from_be_bytes([0, a, b, c]) as usize;
                let Some(payload) = said.get(at + 9..end) else { break };
                let id = u32::from_be_bytes(id.try_into().unwrap());
                match kind {
                    GOAWAY if payload[4..8] != [0; 4] => return Outcome::Closed,
                    RST_STREAM if id == last => {
                        return Outcome::Reset(u32::from_be_bytes(payload.try_into().unwrap()));
                    }
                    DATA if id == last => body += payload.len(),
                    _ => {}
                }
                if id == last && matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                    return Outcome::Answered(body);
                }
                at = end;
            }
            said.drain(..at);
        }
    };
    let outcome = tokio::time::timeout(SOON, reading).await.expect("a response or the end");
    writer.abort();
    outcome
}

#[tokio::test]
async fn accepts_http2_framing_as_etcd_does() {
    let seed = std::env::var("FRAMES_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
            as u64
    });
    eprintln!("FRAMES_SEED={seed}");
    let mut rng = Rng::new(seed);
    let twins = Twins::start(&policy("shadow", ALICE), |_| ()).await;
    // No response waits for the client's window.
    let begin =
        [PREFACE, &frame(SETTINGS, 0, 0, b""), &frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0])]
            .concat();
    // Over TLS, etcd 3.5 and 3.6 serve gRPC from the HTTP/2 server of golang.org/x/net. Recent
    // versions of it reset a call whose `:authority` is not a host.
    let host = |value: &[u8]| value.iter().all(|byte| is_of_a_host(*byte));
    let no_host = frame(
        HEADERS,
        END_HEADERS,
        1,
        &[&[0x83, 0x87, 0x01, 3][..], b"a b", &text(&[0x04], Method::Range.path()), &metadata()]
            .concat(),
    );
    let probe = [&begin[..], &no_host, &frame(DATA, END_STREAM, 1, &range())].concat();
    let must_be_host = outcome(direct(&twins).await, &probe, 1).await == Outcome::Reset(1);
    for round in 0..25 {
        let mut writer = Writer {
            rng: &mut rng,
            next: 1,
            out: begin.clone(),
            said: Vec::new(),
            authority: Vec::new(),
        };
        for _ in 0..1 + writer.rng.below(3) {
            writer.something();
            writer.call();
        }
        let last = writer.call();
        let (bytes, said) = (writer.out, writer.said);
        let refused = must_be_host && !host(&writer.authority);
        let through = outcome(twins.world.tls(&Leaf::client("alice")).await, &bytes, last).await;
        let direct = outcome(direct(&twins).await, &bytes, last).await;
        if refused {
            assert_eq!(
                (through, direct),
                (Outcome::Answered(32), Outcome::Reset(1)),
                "round {round} of FRAMES_SEED={seed}: {said:?}"
            );
        } else {
            assert_eq!(through, direct, "round {round} of FRAMES_SEED={seed}: {said:?}");
        }
    }
    let limited = twins.world.metric("etcd_warden_limits_hit_total", &[r#"limit="frames""#]).await;
    assert_eq!(
        limited + twins.world.metric("etcd_warden_limits_hit_total", &[r#"limit="resets""#]).await,
        0.0
    );
}

/// Headers that no client library writes. The call ends as at etcd, and the connection continues
/// with the next one.
#[tokio::test]
async fn accepts_unusual_headers_as_etcd_does() {
    let twins = Twins::start(&policy("shadow", ALICE), |_| ()).await;
    let path = text(&[0x04], Method::Range.path());
    let named = |rest: &[u8]| {
        let path = [Method::Range.path().as_bytes(), rest].concat();
        [&[0x83, 0x87, 0x04, u8::try_from(path.len()).unwrap()][..], &path].concat()
    };
    let post = |scheme: &[u8]| [&[0x83][..], scheme, &path].concat();
    let heads = [
        (
            "an authority from the static table",
            [&[0x83, 0x81, 0x87][..], &path].concat(),
            Outcome::Answered(32),
        ),
        ("a fragment", named(b"#x"), Outcome::Answered(0)),
        ("an empty fragment", named(b"#"), Outcome::Answered(0)),
        // etcd ignores a query that the HTTP/2 server of golang.org/x/net has read.
        ("a fragment after a query", named(b"?#"), Outcome::Answered(32)),
        ("a space", named(b" "), Outcome::Answered(0)),
        ("no UTF-8", named(b"\xfc"), Outcome::Answered(0)),
        ("characters that no URI has", named(b"<`>\"{|}^\\"), Outcome::Answered(0)),
        // `/a#b`.
        (
            "a fragment, coded",
            vec![0x83, 0x87, 0x04, 0x84, 0x60, 0x7f, 0xf5, 0x1f],
            Outcome::Answered(0),
        ),
        ("a scheme", post(&text(&[0x06], "ftp")), Outcome::Reset(1)),
        (
            "a scheme in capitals, added to the table",
            post(&text(&[0x46], "HTTPS")),
            Outcome::Reset(1),
        ),
        ("an empty scheme", post(&[0x06, 0]), Outcome::Reset(1)),
        ("an empty scheme, added to the table", post(&[0x46, 0]), Outcome::Reset(1)),
        ("no path", vec![0x83, 0x87], Outcome::Reset(1)),
        (
            "no path, and an authority",
            [&[0x83, 0x87][..], &text(&[0x01], "etcd")].concat(),
            Outcome::Reset(1),
        ),
        ("an empty method", [&[0x02, 0, 0x87][..], &path].concat(), Outcome::Reset(1)),
        (
            "an empty method, added to the table",
            [&[0x42, 0, 0x87][..], &path].concat(),
            Outcome::Reset(1),
        ),
    ];
    let begin =
        [PREFACE, &frame(SETTINGS, 0, 0, b""), &frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0])]
            .concat();
    let call = |id, head: &[u8]| {
        let block = [head, &metadata()].concat();
        [frame(HEADERS, END_HEADERS, id, &block), frame(DATA, END_STREAM, id, &range())].concat()
    };
    for (what, head, expected) in heads {
        let odd = [&begin[..], &call(1, &head)].concat();
        let through = outcome(twins.world.tls(&Leaf::client("alice")).await, &odd, 1).await;
        assert_eq!(
            (&through, &outcome(direct(&twins).await, &odd, 1).await),
            (&expected, &expected),
            "{what}"
        );
        let both = [odd, call(3, &[&[0x83, 0x87][..], &path].concat())].concat();
        let through = outcome(twins.world.tls(&Leaf::client("alice")).await, &both, 3).await;
        assert_eq!(through, Outcome::Answered(32), "the call after {what}");
    }
    // A method that is not a token: an HTTP status with a text.
    let odd =
        [&begin[..], &call(1, &[&text(&[0x42], "A B")[..], &[0x87], &path].concat())].concat();
    let through = outcome(twins.world.tls(&Leaf::client("alice")).await, &odd, 1).await;
    assert_eq!(through, outcome(direct(&twins).await, &odd, 1).await);
    assert!(matches!(through, Outcome::Answered(1..)), "{through:?}");
    assert_eq!(
        twins.world.metric("etcd_warden_http2_rejections_total", &[r#"error="protocol""#]).await,
        16.0
    );
}

/// A header block that is too long to be reassembled is not read, nor is any later one. Under
/// enforcement no later request is accepted, so each judged path is the one that was sent.
#[tokio::test]
async fn under_enforcement_no_request_follows_an_unread_head() {
    let path = text(&[0x04], &format!("{}#x", Method::Range.path()));
    let long = [&[0x00, 1, b'x', 0x7f, 0x81, 0x7c][..], &[b'v'; 16_000]].concat();
    let first = [&[0x83, 0x87][..], &text(&[0x04], Method::Range.path())].concat();
    let begin =
        [PREFACE, &frame(SETTINGS, 0, 0, b""), &frame(HEADERS, END_STREAM, 1, &first)].concat();
    let giant = [
        frame(CONTINUATION, 0, 1, &long),
        frame(CONTINUATION, 0, 1, &long),
        frame(CONTINUATION, END_HEADERS, 1, &long),
    ]
    .concat();
    let odd = [
        frame(HEADERS, END_HEADERS, 3, &[&[0x83, 0x87][..], &path, &metadata()].concat()),
        frame(DATA, END_STREAM, 3, &range()),
    ]
    .concat();
    let all = [begin, giant, odd].concat();
    for (mode, expected) in [("enforce", Outcome::Reset(7)), ("shadow", Outcome::Answered(32))] {
        let twins = Twins::start(&policy(mode, ALICE), |_| ()).await;
        assert_eq!(
            outcome(twins.world.tls(&Leaf::client("alice")).await, &all, 3).await,
            expected,
            "{mode}"
        );
    }
}

/// A request that HTTP/2 itself refuses is logged, counted, and in the audit log under the client's
/// name.
#[tokio::test]
async fn what_http2_refuses_is_counted_and_audited() {
    let twins = Twins::start(&policy("shadow", ALICE), |_| ()).await;
    let world = &twins.world;
    // A header that belongs to one connection.
    let malformed = [
        vec![0x83, 0x87],
        text(&[0x04], Method::Range.path()),
        text(&[0x00, 7, b'u', b'p', b'g', b'r', b'a', b'd', b'e'], "h2c"),
    ]
    .concat();
    let bytes = [
        PREFACE,
        &frame(SETTINGS, 0, 0, b""),
        &frame(HEADERS, END_HEADERS | END_STREAM, 1, &malformed),
    ]
    .concat();
    let through = outcome(world.tls(&Leaf::client("alice")).await, &bytes, 1).await;
    assert_eq!(through, Outcome::Reset(1));
    let line = world.audited(|line| line["reason"] == "http2").await;
    assert_eq!(
        (&line["decision"], &line["path"], &line["identity"]["cn"]),
        (&"deny".into(), &"".into(), &"alice".into()),
        "{line}"
    );
    assert_eq!(
        world.metric("etcd_warden_http2_rejections_total", &[r#"error="protocol""#]).await,
        1.0
    );

    // An invalid header block ends the connection.
    let bytes = [
        PREFACE,
        &frame(SETTINGS, 0, 0, b""),
        &frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ]
    .concat();
    assert_eq!(outcome(world.tls(&Leaf::client("alice")).await, &bytes, 1).await, Outcome::Closed);
    world
        .audited(|line| {
            line["reason"] == "http2"
                && line["missing"]["form"].as_str().is_some_and(|form| form.contains("connection"))
        })
        .await;
}
