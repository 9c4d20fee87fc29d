//! Many reloads of everything in a separate process while its clients work: no call fails, no event
//! is lost, and the process does not grow. `ETCD_WARDEN_TEST_RELOADS` sets the number of reloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use etcd_client::{Client, WatchOptions};
use etcd_warden_testbed::pki::Authority;

use crate::process::{ServerFiles, Serving};
use crate::world::files::replace;
use crate::world::{World, authorities, connect, soon};

/// Large enough for a leak to show.
fn policy(prefix: &str, mark: u64) -> String {
    let roles: String = (0..400)
        .map(|n| format!("  idle-{n}: {{allow: [{{keys: /idle-{n}-{mark}/*, verbs: [rw]}}]}}\n"))
        .collect();
    let bindings: String =
        (0..400).map(|n| format!("  - {{cn: idle-{n}, roles: [idle-{n}]}}\n")).collect();
    format!(
        "version: 1\nmode: enforce\nroles:\n  r: {{allow: [{{keys: {prefix}/*, verbs: [rw]}}]}}\n{roles}\
         bindings:\n  - {{cn: alice, roles: [r]}}\n  - {{cn: bob, roles: [r]}}\n{bindings}"
    )
}

/// Memory and descriptors of a process, as reported by the kernel.
#[derive(Clone, Copy, Debug)]
struct Size {
    descriptors: usize,
    resident_kib: u64,
}

fn size(serving: &Serving) -> Size {
    let proc = format!("/proc/{}", serving.child.id().unwrap());
    let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Size {
        descriptors: std::fs::read_dir(format!("{proc}/fd")).unwrap().count(),
        resident_kib: line.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// Writes and reads one key until it is stopped. Every call must succeed.
async fn work(
    mut client: Client,
    key: String,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
) -> u64 {
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) {
        client.put(key.clone(), count.to_string(), None).await.unwrap();
        assert_eq!(
            client.get(key.clone(), None).await.unwrap().kvs()[0].value_str().unwrap(),
            count.to_string()
        );
        count += 1;
        rounds.fetch_add(1, Ordering::SeqCst);
    }
    count
}

fn sum(text: &str, result: &str) -> u64 {
    let samples = text
        .lines()
        .filter(|line| line.starts_with("etcd_warden_reloads_total{") && line.contains(result));
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Changes every file that is reloaded, but not its meaning for the clients.
fn renew(files: &ServerFiles, world: &World, other: &Authority, n: u64) {
    let (ours, upstream) = (&authorities().clients, &authorities().upstream);
    let write = |name: &str, content: &str| replace(&files.path(name), content);
    write("policy.yaml", &policy(&world.prefix, n));
    write(
        "clients-ca.crt",
        &if n.is_multiple_of(2) { ours.pem() } else { ours.pem() + &other.pem() },
    );
    write("clients.crl", &(ours.crl(&[7, n + 1000]).unwrap() + &other.crl(&[]).unwrap()));
    for (name, issued) in [
        ("server", ours.server(&["127.0.0.1"]).unwrap()),
        ("upstream", upstream.client("root").unwrap()),
    ] {
        write(&format!("{name}.crt"), &issued.certificate);
        write(&format!("{name}.key"), &issued.key);
    }
}

#[tokio::test]
async fn reloads_under_load_fail_no_call_and_leave_nothing_behind() {
    let reloads =
        std::env::var("ETCD_WARDEN_TEST_RELOADS").map_or(150, |text| text.parse::<u64>().unwrap());
    let world = World::start(&policy("$P", 0)).await;
    let other = Authority::new("added and removed").unwrap();
    let files = ServerFiles::new(&world, &policy(&world.prefix, 0), "");
    let crl = files.path("clients.crl");
    std::fs::write(&crl, authorities().clients.crl(&[]).unwrap()).unwrap();
    // Its log is not read and would fill the pipe. Files are written whole in this test, so none
    // has to settle, and a CA takes effect together with its list.
    let serving = files
        .start(&[
            "--client-crl-file",
            crl.to_str().unwrap(),
            "--log-filter",
            "error",
            "--reload-settle",
            "0s",
        ])
        .await;
    let as_ = |name: &'static str| {
        let endpoint = format!("https://{}", serving.files.listen);
        async move {
            connect(
                &[endpoint],
                &authorities().clients,
                &authorities().clients.client(name).unwrap(),
            )
            .await
        }
    };
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut watching = as_("bob").await;
    let mut events = watching.watch(world.key("alice"), Some(WatchOptions::new())).await.unwrap();
    let alice =
        tokio::spawn(work(as_("alice").await, world.key("alice"), stop.clone(), rounds.clone()));
    let bob = tokio::spawn(work(as_("bob").await, world.key("bob"), stop.clone(), rounds.clone()));
    let seen = tokio::spawn(async move {
        let mut seen = 0_u64;
        while let Some(answer) = events.message().await.unwrap() {
            for event in answer.events() {
                let value = event.kv().unwrap().value_str().unwrap().to_owned();
                if value == "end" {
                    return seen;
                }
                assert_eq!(value, seen.to_string(), "in order, each once");
                seen += 1;
            }
        }
        panic!("the watch ended");
    });

    let mut sizes = Vec::new();
    for n in 1..=reloads {
        let before = rounds.load(Ordering::SeqCst);
        renew(&serving.files, &world, &other, n);
        serving.signal("HUP");
        soon("a reload of all four", || async {
            let metrics = serving.page("/metrics").await;
            assert_eq!(sum(&metrics, "result=\"failed\""), 0, "{}", serving.page("/policy").await);
            (sum(&metrics, "result=\"ok\"") >= 4 * n).then_some(())
        })
        .await;
        soon("load", || async { (rounds.load(Ordering::SeqCst) > before).then_some(()) }).await;
        assert!(
            !alice.is_finished() && !bob.is_finished() && !seen.is_finished(),
            "a call failed at reload {n}"
        );
        sizes.push(size(&serving));
    }
    stop.store(true, Ordering::SeqCst);
    let (written, others) = (alice.await.unwrap(), bob.await.unwrap());
    world.direct().await.put(world.key("alice"), "end", None).await.unwrap();
    assert_eq!(seen.await.unwrap(), written);

    let metrics = serving.page("/metrics").await;
    assert_eq!(
        (sum(&metrics, "result=\"ok\""), sum(&metrics, "result=\"failed\"")),
        (4 * reloads, 0),
        "{metrics}"
    );
    let fifth = sizes.len() / 5;
    let largest = |sizes: &[Size]| sizes.iter().map(|size| size.descriptors).max().unwrap();
    let mean = |sizes: &[Size]| {
        sizes.iter().map(|size| size.resident_kib).sum::<u64>() / sizes.len() as u64
    };
    // The allocator needs two fifths of the run to reach its size: 45 MiB become 54 and stay there
    // for 500 reloads.
    let (first, middle, last) =
        (&sizes[..fifth], &sizes[2 * fifth..3 * fifth], &sizes[sizes.len() - fifth..]);
    let told = format!(
        "{reloads} reloads, {} rounds: descriptors {} then {}, resident {} KiB then {} KiB",
        written + others,
        largest(first),
        largest(last),
        mean(middle),
        mean(last)
    );
    println!("{told}");
    // Connections to etcd that are being replaced add and remove descriptors.
    assert!(largest(last) <= largest(first) + 8, "{told}");
    assert!(mean(last) <= mean(middle) + mean(middle) / 8, "{told}");
}
