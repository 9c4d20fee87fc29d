//! Frames that HTTP/2 allows one by one but that cost more than their size suggests, and random
//! frames: in either mode no other client is affected. `src/gateway/http2/cost.rs` counts the cost
//! of each frame and limits what one connection may cause.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use etcd_warden_core::method::Method;
use etcd_warden_testbed::pki::Leaf;
use h2::Reason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::POLICY;
use super::floods::{goaway, head, range};
use crate::oracle::rng::Rng;
use crate::world::neighbour::Neighbour;
use crate::world::raw::framed;
use crate::world::raw::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    frame,
};
use crate::world::{SOON, World, soon};

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;

fn shadowed() -> String {
    POLICY.replace("mode: enforce", "mode: shadow")
}

fn window(size: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&[0, 4][..], &size.to_be_bytes()].concat())
}

/// A connection that reads everything it gets.
struct Flooder {
    write: tokio::io::WriteHalf<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>,
    said: tokio::task::JoinHandle<Vec<u8>>,
    answered: Arc<AtomicUsize>,
}

impl Flooder {
    async fn begin(world: &World) -> Self {
        let (mut read, mut write) = tokio::io::split(world.tls(&Leaf::client("alice")).await);
        let answered = Arc::<AtomicUsize>::default();
        let counted = answered.clone();
        let said = tokio::spawn(async move {
            let (mut said, mut piece) = (Vec::new(), vec![0; 1 << 16]);
            while let Ok(length @ 1..) = read.read(&mut piece).await {
                said.extend_from_slice(&piece[..length]);
                counted.store(said.len(), Ordering::SeqCst);
            }
            said
        });
        write.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await.unwrap();
        Self { write, said, answered }
    }

    /// Sends frames until there were enough or the connection ends. Returns the number that was
    /// accepted.
    async fn send(&mut self, most: usize, mut next: impl FnMut(usize) -> Vec<u8>) -> usize {
        for sent in 0..most {
            if self.write.write_all(&next(sent)).await.is_err() {
                return sent;
            }
        }
        most
    }

    /// The reason of the GOAWAY that ended the connection. Ends it if it is still open.
    async fn end(mut self) -> Option<Reason> {
        let _ = self.write.shutdown().await;
        goaway(&tokio::time::timeout(SOON, self.said).await.expect("the connection ends").unwrap())
    }
}

async fn is_ended_for(
    world: &World,
    neighbour: &Neighbour,
    what: &str,
    streams: u32,
    flood: &[u8],
) {
    let mut flooder = Flooder::begin(world).await;
    let opened = |n: usize| frame(HEADERS, END_HEADERS, 2 * u32::try_from(n).unwrap() + 1, &head());
    flooder.send(usize::try_from(streams).unwrap(), opened).await;
    flooder.send(20_000, |_| flood.to_vec()).await;
    assert_eq!(flooder.end().await, Some(Reason::ENHANCE_YOUR_CALM), "{what}");
    neighbour.was_served(what).await;
}

#[tokio::test]
async fn frames_that_touch_all_open_streams_end_their_connection() {
    for policy in [POLICY.to_owned(), shadowed()] {
        let world = World::start(&policy).await;
        let neighbour = world.neighbour().await;
        is_ended_for(
            &world,
            &neighbour,
            "SETTINGS that move all windows",
            3000,
            &[window(70_000), window(65_535)].concat(),
        )
        .await;
        let away = frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]).repeat(2);
        is_ended_for(&world, &neighbour, "GOAWAY", 3000, &away).await;
        let counted = || world.metric("etcd_warden_limits_hit_total", &[r#"limit="frames""#]);
        soon("both are counted", || async { (counted().await == 2.0).then_some(()) }).await;
        let line = world.audited(|line| line["reason"] == "limit").await;
        assert_eq!(
            (&line["decision"], &line["identity"]["cn"]),
            (&"deny".into(), &"alice".into()),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_busy_clients_frames_end_no_connection() {
    for policy in [POLICY.to_owned(), shadowed()] {
        let world = World::start(&policy).await;
        let body = framed(&range(&world));
        let mut flooder = Flooder::begin(&world).await;
        let call = |id: u32| {
            [frame(HEADERS, END_HEADERS, id, &head()), frame(DATA, END_STREAM, id, &body)].concat()
        };
        // 1,500 calls cancelled at once, twice: after their headers, and as complete calls.
        flooder.send(1500, |n| frame(HEADERS, END_HEADERS, 2 * n as u32 + 1, &head())).await;
        flooder.send(1500, |n| frame(RST_STREAM, 0, 2 * n as u32 + 1, &[0, 0, 0, 8])).await;
        flooder
            .send(1500, |n| {
                [
                    frame(HEADERS, END_HEADERS, 2 * n as u32 + 3001, &head()),
                    frame(RST_STREAM, 0, 2 * n as u32 + 3001, &[0, 0, 0, 8]),
                ]
                .concat()
            })
            .await;
        // Empty pieces and pieces of one byte.
        flooder
            .send(1, |_| {
                [frame(HEADERS, END_HEADERS, 6001, &head()), frame(DATA, 0, 6001, b"").repeat(5000)]
                    .concat()
            })
            .await;
        flooder
            .send(body.len(), |n| frame(DATA, u8::from(n + 1 == body.len()), 6001, &body[n..=n]))
            .await;
        flooder.send(1, |_| call(6003)).await;
        flooder.send(1, |_| frame(PING, 0, 0, b"the last")).await;
        let answered = || flooder.answered.load(Ordering::SeqCst);
        let mut before = 0;
        soon("the end of the responses", || {
            let now = answered();
            let same = now == before && now > 0;
            before = now;
            async move { same.then_some(()) }
        })
        .await;
        assert_eq!(flooder.end().await, None);
        let limited = |limit: &'static str| {
            world.metric("etcd_warden_limits_hit_total", Box::leak(Box::new([limit])))
        };
        assert_eq!(
            (limited(r#"limit="resets""#).await, limited(r#"limit="frames""#).await),
            (0.0, 0.0)
        );
    }
}

/// One random frame of any kind, rarely one that a real client would send.
fn drawn(rng: &mut Rng, next: &mut u32, head: &[u8], body: &[u8]) -> Vec<u8> {
    let old = |rng: &mut Rng, next: u32| 2 * rng.below((next as usize / 2).max(1)) as u32 + 1;
    let fresh = |next: &mut u32| {
        *next += 2;
        *next - 2
    };
    match rng.below(16) {
        0 => frame(HEADERS, END_HEADERS, fresh(next), head),
        1 => {
            let id = fresh(next);
            [frame(HEADERS, END_HEADERS, id, head), frame(DATA, END_STREAM, id, body)].concat()
        }
        2 => {
            let id = fresh(next);
            [frame(HEADERS, 0, id, &head[..9]), frame(CONTINUATION, END_HEADERS, id, &head[9..])]
                .concat()
        }
        3 | 4 => window(rng.of(&[65_535, 70_000, 1 << 20, 0])),
        5 => frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 16, 0].repeat(rng.below(20))),
        6 => frame(PING, 0, 0, b"12345678"),
        7 => frame(PING, ACK, 0, b"12345678"),
        8 => frame(PRIORITY, 0, old(rng, *next), &[0, 0, 0, 0, 16]),
        9 => frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        10 => frame(0xb0 + rng.below(20) as u8, 0, 0, &body[..rng.below(body.len())]),
        11 => frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
        12 if *next > 1 => frame(WINDOW_UPDATE, 0, old(rng, *next), &[0, 0, 0, 1]),
        13 => {
            let id = fresh(next);
            [
                frame(HEADERS, END_HEADERS, id, head),
                frame(DATA, 0, id, b"").repeat(20),
                frame(DATA, 0, id, b"x").repeat(20),
            ]
            .concat()
        }
        14 => {
            let id = fresh(next);
            [
                frame(HEADERS, END_HEADERS, id, head),
                frame(DATA, 8, id, &[&[255][..], &[0; 255]].concat()),
            ]
            .concat()
        }
        _ if rng.once_in(2000) => frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
        _ => {
            let id = fresh(next);
            [frame(HEADERS, END_HEADERS, id, head), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])]
                .concat()
        }
    }
}

#[tokio::test]
async fn frames_drawn_at_random_harm_no_neighbour_in_either_mode() {
    let seed = std::env::var("FRAMES_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
            as u64
    });
    eprintln!("FRAMES_SEED={seed}");
    let mut rng = Rng::new(seed);
    for policy in [POLICY.to_owned(), shadowed()] {
        let world = World::start(&policy).await;
        let neighbour = world.neighbour().await;
        let (head, body) = (head(), framed(&range(&world)));
        for round in 0..4 {
            let mut flooder = Flooder::begin(&world).await;
            let mut next = 1;
            let sent = flooder
                .send(super::scale("FRAMES", 400), |_| {
                    (0..50).flat_map(|_| drawn(&mut rng, &mut next, &head, &body)).collect()
                })
                .await;
            let told = flooder.end().await;
            eprintln!("round {round}: {} frames, then {told:?}", 50 * sent);
            neighbour.was_served("frames at random").await;
        }
        let mut other = world.raw("alice").await;
        assert_eq!(
            other.call(Method::Range.path(), &range(&world)).await.grpc_status(),
            Some(0),
            "its identity is still served"
        );
    }
}
