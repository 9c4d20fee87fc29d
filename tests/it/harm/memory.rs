//! `docs/limits.md`: its table lists the settings, its sum is correct, and the program stays below
//! it under all floods at once.

use std::collections::HashMap;
use std::path::Path;

use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::settings::{self, SETTINGS};
use etcd_warden_gateway::metrics::reason::Limit;
use prost::Message as _;

use super::readers::{deaf, generous, range};
use crate::live::Live;
use crate::process::{ServerFiles, Serving};
use crate::world::neighbour::Neighbour;
use crate::world::raw::{Raw, framed, grpc_headers, tls};
use crate::world::{World, authorities, connect, soon};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/limits.md")).unwrap()
}

/// The cells of the rows of a table whose first cell is in backticks.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let section =
        page.split(&format!("\n## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
    })
    .collect()
}

fn plain(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// A number, with a unit if it is in bytes.
fn number(text: &str) -> Option<u64> {
    let (digits, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        _ => return None,
    };
    Some(digits.parse::<u64>().ok()? * unit)
}

fn defaults() -> HashMap<String, u64> {
    let given = SETTINGS.iter().filter_map(|setting| match setting.default {
        settings::DefaultValue::Value(value) => Some((setting.name.to_owned(), number(value)?)),
        _ => None,
    });
    given.collect()
}

/// The sum of the table's rows with these settings.
fn bound(page: &str, settings: &HashMap<String, u64>) -> u64 {
    let value = |factor: &str| {
        number(factor).unwrap_or_else(|| {
            *settings.get(factor).unwrap_or_else(|| panic!("no setting `{factor}`"))
        })
    };
    let product = |cell: &str| plain(cell).split(" * ").map(value).product::<u64>();
    rows(page, "Memory").iter().map(|row| product(&row[0]) * product(&row[1])).sum()
}

/// The settings that the page proposes for little memory.
fn proposed(page: &str) -> (String, HashMap<String, u64>) {
    let yaml = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let mut settings = defaults();
    settings.insert("workers".to_owned(), 1);
    for line in yaml.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        assert!(SETTINGS.iter().any(|setting| setting.name == name), "{name}");
        settings.insert(name.to_owned(), number(value).unwrap());
    }
    (yaml.to_owned(), settings)
}

#[test]
fn the_table_of_bounds_lists_the_settings() {
    let page = page();
    let rows = rows(&page, "Bounds");
    let named: Vec<&str> = rows.iter().map(|row| plain(&row[0])).collect();
    let limits =
        SETTINGS.iter().filter(|setting| setting.section == "Limits").map(|setting| setting.name);
    for name in limits.chain(["audit-queue"]) {
        assert!(named.contains(&name), "`{name}` is missing");
    }
    for row in &rows {
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.name == plain(&row[0]))
            .unwrap_or_else(|| panic!("no setting {}", row[0]));
        let default = match setting.default {
            settings::DefaultValue::Value(value) => format!("`{value}`"),
            settings::DefaultValue::Unset(meaning) => meaning.to_owned(),
            settings::DefaultValue::Required => panic!("{} has no default", setting.name),
        };
        assert_eq!(row[1], default, "{}", setting.name);
        // The page names how each limit is shared, and no limit is one that all clients have
        // together.
        let limit = Limit::ALL.iter().find(|limit| limit.code() == plain(&row[3]));
        assert_eq!(limit.is_none(), row[3] == "-", "{}: {}", setting.name, row[3]);
        let shared = limit.map_or_else(|| row[4].clone(), |limit| limit.shared_by().name());
        assert_eq!(row[4], shared, "{}", setting.name);
        assert!(
            ["identity", "address"].contains(&&*shared) || shared.starts_with("one "),
            "{}: {shared}",
            setting.name
        );
    }
    for code in Limit::CODES {
        assert!(page.contains(&format!("`{code}`")), "`{code}` is missing");
    }
}

#[test]
fn the_sum_is_that_of_the_rows() {
    let page = page();
    let mut settings = defaults();
    settings.insert("workers".to_owned(), 2);
    let text = format!("the sum is `{} GiB`", (bound(&page, &settings) + GIB / 2) / GIB);
    assert!(page.contains(&text), "{text}");
    let text = format!("this is `{} MiB`", bound(&page, &proposed(&page).1).div_ceil(MIB));
    assert!(page.contains(&text), "{text}");
}

const POLICY: &str = "
version: 1
mode: enforce
roles:
  all: {allow: [{keys: /t/*, verbs: [rw]}]}
bindings:
  - {cn: neighbour, roles: [all]}
  - {cn: \"reader-{number}\", roles: [all]}
";

/// Its peak resident size.
pub fn peak(serving: &Serving) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", serving.child.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * KIB
}

pub async fn raw(serving: &Serving, common_name: &str) -> Raw {
    let issued = authorities().clients.client(common_name).unwrap();
    Raw::over(
        tls(serving.files.listen, Some(&issued), &[b"h2"], rustls::ALL_VERSIONS).await.unwrap(),
    )
    .await
}

async fn hits(serving: &Serving, limit: &str) -> u64 {
    let page = serving.page("/metrics").await;
    let line = page.lines().find(|line| {
        line.starts_with("etcd_warden_limits_hit_total{") && line.contains(&format!("\"{limit}\""))
    });
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_request_costs_its_rows_whatever_its_headers() {
    const REQUESTS: u64 = 600;
    let (yaml, settings) = proposed(&page());
    let world = World::start(POLICY).await;
    let rows = rows(&page(), "Memory")
        .into_iter()
        .filter(|row| plain(&row[0]) == "max-requests-in-flight");
    let row: u64 =
        rows.map(|row| number(plain(&row[1])).unwrap_or_else(|| settings[plain(&row[1])])).sum();
    let letters = || "abcdefghijklmnopqrstuvwxyz".chars();
    let names: Vec<String> = letters()
        .flat_map(|a| letters().map(move |b| format!("{a}{b}")))
        .filter(|name| name != "te")
        .take(400)
        .collect();
    let (mut unlisted, mut repeated) = (grpc_headers(), grpc_headers());
    for name in &names {
        unlisted.insert(http::HeaderName::try_from(name).unwrap(), "v".parse().unwrap());
        repeated.append("token", "v".parse().unwrap());
    }
    for (kind, headers) in
        [("headers that are not forwarded", unlisted), ("one header repeated", repeated)]
    {
        let serving = ServerFiles::new(&world, POLICY, &yaml).start(&[]).await;
        let before = peak(&serving);
        let mut begun = Vec::new();
        for identity in 0..6 {
            let mut raw = raw(&serving, &format!("reader-{identity}")).await;
            for _ in 0..REQUESTS / 6 {
                begun.push(raw.open(Method::Put.path(), &headers).await.unwrap());
            }
        }
        soon("all requests", || async {
            (serving
                .page("/metrics")
                .await
                .contains(&format!("etcd_warden_requests_in_flight {REQUESTS}")))
            .then_some(())
        })
        .await;
        let each = peak(&serving).saturating_sub(before) / REQUESTS;
        eprintln!("{kind}: {} KiB each, of {} KiB", each / KIB, row / KIB);
        assert!(each < row, "{kind}: {} KiB each are more than {} KiB", each / KIB, row / KIB);
    }
}

#[tokio::test]
async fn under_all_floods_at_once_memory_stays_below_its_bound() {
    let page = page();
    let (yaml, settings) = proposed(&page);
    let bound = bound(&page, &settings);
    let world = World::start(POLICY).await;
    let (fake, _) = generous().await;
    let endpoint = format!("https://{}", fake.address);
    let serving = ServerFiles::new(&world, POLICY, &yaml).start(&["--endpoints", &endpoint]).await;
    let issued = authorities().clients.client("neighbour").unwrap();
    let client =
        connect(&[format!("https://{}", serving.files.listen)], &authorities().clients, &issued)
            .await;
    let neighbour = Neighbour::works(client, "/t/neighbour".to_owned()).await;
    eprintln!("at rest: {} MiB", peak(&serving) / MIB);

    // Handshakes that begin and never end.
    let mut handshakes = Vec::new();
    for _ in 0..90 {
        handshakes.push(tokio::net::TcpStream::connect(serving.files.listen).await.unwrap());
    }
    // Sockets that are never read, with open responses of 100 MiB or with refusals.
    let mut sockets = Vec::new();
    for number in 0..100 {
        let (key, times) = if number % 4 == 0 { ("/elsewhere", 5000) } else { ("/t/big", 20) };
        sockets.push(
            deaf(
                serving.files.listen,
                &format!("reader-{}", number % 10),
                &range(key.to_owned()),
                times,
            )
            .await,
        );
    }
    neighbour.was_served("sockets that are never read").await;
    // Flow control windows that stay closed.
    let mut unread = Vec::new();
    for number in 10..20 {
        let mut raw = raw(&serving, &format!("reader-{number}")).await;
        for _ in 0..60 {
            unread.push(Live::ask(&mut raw, Method::Range, &range("/t/big".to_owned())).await);
        }
        unread.push(Live::open(&mut raw, Method::Watch).await);
        unread.last_mut().unwrap().send_as_they_are(&framed(&vec![0; 1 << 20])[..1 << 20]);
    }
    soon("unread responses that end", || async {
        (hits(&serving, "unread_bytes").await > 100).then_some(())
    })
    .await;
    neighbour.was_served("windows that stay closed").await;
    eprintln!("with unread responses: {} MiB", peak(&serving) / MIB);
    // Lookups of leases with more keys than would fit into memory.
    let mut questions = Vec::new();
    for number in 30..40 {
        let mut raw = raw(&serving, &format!("reader-{number}")).await;
        for id in 0..60 {
            let question = etcd_warden_proto::etcdserverpb::LeaseTimeToLiveRequest {
                id: number * 1000 + id,
                keys: false,
            };
            questions.push(
                Live::ask(&mut raw, Method::LeaseTimeToLive, &question.encode_to_vec()).await,
            );
        }
    }
    soon("refused lease lookups", || async {
        (hits(&serving, "lease_questions").await > 100).then_some(())
    })
    .await;
    neighbour.was_served("lease lookups").await;
    eprintln!("with lease lookups: {} MiB", peak(&serving) / MIB);
    // Requests that never end: large ones, and small ones with large header lists.
    let mut begun = Vec::new();
    let small = grpc_headers();
    let mut heads = grpc_headers();
    heads.insert("x-much", "y".repeat(14_000).parse().unwrap());
    for number in 20..30 {
        let mut raw = raw(&serving, &format!("reader-{number}")).await;
        for n in 0..120 {
            let mut stream =
                raw.open(Method::Put.path(), if n < 100 { &heads } else { &small }).await.unwrap();
            let bytes = framed(&vec![0; 1 << 20])[..if n < 100 { 6 } else { 1 << 20 }].to_vec();
            let _ = stream.request.send_data(bytes.into(), false);
            begun.push(stream);
        }
    }
    soon("refused requests", || async { (hits(&serving, "held_bytes").await > 20).then_some(()) })
        .await;
    neighbour.was_served("requests that never end").await;
    let peak = peak(&serving);
    eprintln!("peak: {} MiB, bound: {} MiB", peak / MIB, bound / MIB);
    assert!(peak < bound, "{} MiB are more than {} MiB", peak / MIB, bound / MIB);
    drop((handshakes, sockets, unread, questions, begun));
    neighbour.was_served("their end").await;
}
