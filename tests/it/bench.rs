//! `etcd-warden bench` as a process: against a real etcd, through the real proxy, and against
//! misbehaving servers.

mod errors;
mod signals;
mod watches;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use etcd_warden_proto::etcdserverpb::{
    PutResponse, RangeResponse, ResponseHeader, TxnResponse, response_op,
};
use etcd_warden_testbed::pki::{Issued, write_private};
use prost::Message as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::text;
use crate::world::fake::{Fake, Visit};
use crate::world::{World, authorities, root};

const POLICY: &str = "
version: 1
mode: enforce
roles:
  bench: { allow: [{ keys: $P/*, verbs: [rw] }], capabilities: [lease, snapshot] }
  reader: { allow: [{ keys: $P/*, verbs: [read] }] }
bindings:
  - { cn: bench, roles: [bench] }
  - { cn: reader, roles: [reader] }
";

/// The certificate files and the endpoint of a client.
struct BenchClient {
    folder: TempDir,
}

impl BenchClient {
    fn of(issued: &Issued, ca: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        issued.write(folder.path(), "client").unwrap();
        write_private(folder.path(), "ca.crt", ca).unwrap();
        Self { folder }
    }

    /// A client that the proxy knows.
    fn client(name: &str) -> Self {
        Self::of(&authorities().clients.client(name).unwrap(), &authorities().clients.pem())
    }

    /// A client that may connect to etcd itself.
    fn direct() -> Self {
        Self::of(root(), &authorities().upstream.pem())
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    async fn bench(&self, arguments: &[&str]) -> Ran {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
        command.arg("bench").args([
            "--cacert",
            "ca.crt",
            "--cert",
            "client.crt",
            "--key",
            "client.key",
            "--output=json",
        ]);
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(120), command.output())
            .await
            .expect("the process ends")
            .unwrap();
        Ran(output)
    }
}

struct Ran(Output);

impl Ran {
    /// The report of a run, which must have ended with this code.
    fn report(&self, code: i32) -> Value {
        assert_eq!(self.0.status.code(), Some(code), "{}\n{}", text(&self.0.stdout), self.err());
        serde_json::from_slice(&self.0.stdout).unwrap()
    }

    fn err(&self) -> &str {
        text(&self.0.stderr)
    }
}

fn series<'r>(report: &'r Value, target: usize, name: &str) -> &'r Value {
    let all = report["steps"][0]["targets"][target]["series"].as_array().unwrap();
    all.iter()
        .find(|series| series["name"] == name)
        .unwrap_or_else(|| panic!("no `{name}`: {report:#}"))
}

fn metrics(world: &World) -> String {
    format!("--etcd-metrics=http://{}", world.etcd().metrics_address(0).unwrap())
}

/// Responds to a workload of Puts as etcd would, each with its own revision.
fn as_etcd(visit: &mut Visit) {
    let revision = i64::try_from(visit.index).unwrap() + 1;
    let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
    let answer = match &*visit.path {
        "/etcdserverpb.KV/Put" => PutResponse { header, prev_kv: None }.encode_to_vec(),
        "/etcdserverpb.KV/Txn" => {
            let put = response_op::Response::ResponsePut(PutResponse::default());
            let responses =
                vec![etcd_warden_proto::etcdserverpb::ResponseOp { response: Some(put) }];
            TxnResponse { header, succeeded: true, responses }.encode_to_vec()
        }
        _ => RangeResponse { header, ..RangeResponse::default() }.encode_to_vec(),
    };
    visit.answer(&answer);
}

async fn keys_left(world: &World) -> i64 {
    let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
    world.direct().await.get(world.prefix.as_str(), Some(options)).await.unwrap().count()
}

async fn keys_below(world: &World, prefix: &str) -> Vec<String> {
    let options = etcd_client::GetOptions::new().with_prefix().with_keys_only();
    let left = world.direct().await.get(prefix, Some(options)).await.unwrap();
    left.kvs().iter().map(|pair| pair.key_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_workload_is_checked_counted_and_cleaned_up() {
    let world = World::with(POLICY).own_etcd().start().await;
    let mix = "--mix=range=4,put=2,txn=2,watch-fanout=1,lease=3,snapshot=1";
    let prefix = format!("--prefix={}/", world.prefix);
    let (metrics, endpoint) = (metrics(&world), format!("--endpoint={}", world.endpoint()));
    for pace in [&["--count=300"][..], &["--rate=300", "--time=1s", "--own-ranges"]] {
        let mut arguments = vec![
            &*endpoint,
            &*prefix,
            mix,
            &*metrics,
            "--keys=50",
            "--connections=3",
            "--streams=4",
            "--watchers=5",
            "--warm-up=0s",
        ];
        arguments.extend(pace);
        let report = BenchClient::client("bench").bench(&arguments).await.report(0);
        for name in [
            "range",
            "put",
            "txn",
            "watch-put",
            "lease-grant",
            "lease-keepalive",
            "lease-revoke",
            "snapshot",
        ] {
            let series = series(&report, 0, name);
            assert!(
                series["ok"].as_u64().unwrap() > 0
                    && series["failures"].as_array().unwrap().is_empty(),
                "{series:#}"
            );
        }
        assert_eq!(
            series(&report, 0, "watch-event")["ok"].as_u64().unwrap(),
            5 * series(&report, 0, "watch-put")["ok"].as_u64().unwrap()
        );
        let counts = report["verification"]["etcd_counts"].as_array().unwrap();
        assert_eq!(counts.len(), 7, "{counts:?}");
        assert!(counts.iter().all(is_counted), "{counts:?}");
        assert_eq!(keys_left(&world).await, 0);
    }
}

#[tokio::test]
async fn a_server_stall_is_in_the_latency_of_all_due_requests() {
    // 100 requests per second, one at a time. The first response takes a second, all others none.
    const STALL: Duration = Duration::from_secs(1);
    let fake = Fake::serving(|mut visit: Visit| async move {
        visit.body().await;
        // The requests before the load list the existing keys and write the one key in a Txn.
        if visit.index == 2 {
            tokio::time::sleep(STALL).await;
        }
        as_etcd(&mut visit);
    })
    .await;
    let endpoint = format!("--endpoint=https://{}", fake.address);
    let load = ["--mix=put", "--keys=1", "--connections=1", "--streams=1", "--warm-up=0s"];
    let pace = ["--gaps=uniform", "--rate=100", "--count=150", &endpoint];
    let open = BenchClient::direct().bench(&[&load[..], &pace].concat()).await.report(0);
    let latency = &series(&open, 0, "put")["latency_us"];
    // 100 of 150 requests were due during the stall, so the median is in the rest of the stall.
    assert_eq!(series(&open, 0, "put")["ok"], 150);
    assert!(latency["p50"].as_u64().unwrap() > 200_000, "{latency}");
    assert!(latency["max"].as_u64().unwrap() >= 1_000_000, "{latency}");
}

#[tokio::test]
async fn a_ramp_ends_at_the_rate_whose_responses_are_late() {
    // One at a time, 20 ms each: 50 per second.
    let fake = Fake::serving(|mut visit: Visit| async move {
        visit.body().await;
        if visit.path.ends_with("/Put") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        as_etcd(&mut visit);
    })
    .await;
    let endpoint = format!("--endpoint=https://{}", fake.address);
    let load = [
        "--mix=put",
        "--keys=1",
        "--connections=1",
        "--streams=1",
        "--warm-up=0s",
        "--gaps=uniform",
    ];
    let report = BenchClient::direct()
        .bench(&[&load[..], &["--ramp=4..1024/3", "--time=5s", &endpoint]].concat())
        .await
        .report(0);
    let steps = report["steps"].as_array().unwrap();
    let shown: Vec<_> =
        steps.iter().map(|step| (&step["sustained"], &step["targets"][0]["ok"])).collect();
    // Every request of the second rate (64 per second) got a response, but too late. The third rate
    // is not tried.
    assert_eq!(shown, [(&true.into(), &20.into()), (&false.into(), &320.into())], "{report:#}");
    assert!(steps[1]["targets"][0]["in_time"].as_u64().unwrap() <= 250, "{report:#}");
    assert_eq!(report["knee"], 4.0);
}

#[tokio::test]
async fn refusals_are_counted_by_code_without_latency() {
    let world = World::start(POLICY).await;
    let client = BenchClient::direct();
    let folder = client.path().join("people/reader");
    std::fs::create_dir_all(&folder).unwrap();
    // The load uses the reader's certificate. A client with write rights prepares the keys. Both go
    // through the proxy.
    let reader = authorities().clients.client("reader").unwrap();
    write_private(&folder, "etcd-cert", &reader.certificate).unwrap();
    write_private(&folder, "etcd-key", &reader.key).unwrap();
    write_private(&folder, "etcd-ca", &authorities().clients.pem()).unwrap();
    let operator = BenchClient::client("bench");
    let endpoint = format!("--endpoint={}", world.endpoint());
    let (prefix, people) = (
        format!("--prefix={}/", world.prefix),
        format!("--identities={}", client.path().join("people").display()),
    );
    let arguments = [
        &*endpoint,
        &*prefix,
        &*people,
        "--mix=range,put",
        "--keys=10",
        "--count=200",
        "--warm-up=0s",
    ];
    let report = operator.bench(&arguments).await.report(0);
    let (range, put) = (series(&report, 0, "range"), series(&report, 0, "put"));
    assert_eq!(range["failures"], Value::Array(vec![]));
    assert_eq!(put["ok"], 0);
    assert_eq!(put["latency_us"]["max"], 0);
    assert_eq!(put["failures"][0]["what"], "PermissionDenied");
    assert_eq!(put["failures"][0]["message"], "etcdserver: permission denied");
    assert_eq!(range["ok"].as_u64().unwrap() + put["failures"][0]["count"].as_u64().unwrap(), 200);
    assert_eq!(keys_left(&world).await, 0);
}

#[tokio::test]
async fn a_wrong_answer_is_found_and_ends_with_exit_code_1() {
    let fake = Fake::serving(|mut visit: Visit| async move {
        visit.body().await;
        let header = Some(ResponseHeader { revision: 7, ..ResponseHeader::default() });
        visit.answer(&PutResponse { header, prev_kv: None }.encode_to_vec());
    })
    .await;
    let endpoint = format!("--endpoint=https://{}", fake.address);
    let arguments = [
        &*endpoint,
        "--mix=put",
        "--keys=5",
        "--count=3",
        "--connections=1",
        "--streams=1",
        "--warm-up=0s",
    ];
    let report = BenchClient::direct().bench(&arguments).await.report(1);
    // The first response has a revision; later ones repeat it.
    assert_eq!(report["verification"]["wrong_answers"], 2);
    assert!(
        report["verification"]["examples"][0].as_str().unwrap().contains("revision 7"),
        "{report:#}"
    );
}

#[tokio::test]
async fn etcd_and_the_proxy_are_compared_slice_by_slice() {
    // One certificate that both accept: etcd's CA is trusted beside the clients' CA.
    let both = authorities().upstream.pem() + &authorities().clients.pem();
    let folder = tempfile::tempdir().unwrap();
    let trusted = write_private(folder.path(), "both.crt", &both).unwrap();
    let world = World::with(POLICY)
        .etcd_flag(&format!("--trusted-ca-file={}", trusted.display()))
        .start()
        .await;
    let client = BenchClient::of(&authorities().clients.client("bench").unwrap(), &both);
    let compare =
        format!("--compare=direct={},proxy={}", world.etcd().endpoints()[0], world.endpoint());
    let (prefix, metrics) = (format!("--prefix={}/", world.prefix), metrics(&world));
    let pids = format!("--pid=proxy={}", std::process::id());
    let arguments = [
        &*compare,
        &*prefix,
        &*metrics,
        &*pids,
        "--rounds=6",
        // Neither rounds nor threads divide it.
        "--count=601",
        "--threads=2",
        "--keys=20",
        "--html=r.html",
        "--json=r.json",
        "--warm-up=0s",
    ];
    let report = client.bench(&arguments).await.report(0);
    let step = &report["steps"][0];
    for target in [0, 1] {
        assert_eq!(
            (&step["targets"][target]["slices"], &step["targets"][target]["ok"]),
            (&6.into(), &601.into()),
            "{step:#}"
        );
    }
    assert!(
        step["targets"][1]["resident"].as_u64().unwrap() > 0
            && step["targets"][0].get("resident").is_none()
    );
    let ratio = step["ratios"]
        .as_array()
        .unwrap()
        .iter()
        .find(|ratio| ratio["figure"] == "range p50")
        .unwrap();
    assert_eq!(
        (&ratio["base"], &ratio["target"], &ratio["pairs"]),
        (&"direct".into(), &"proxy".into(), &6.into())
    );
    assert!(
        ratio["low"].as_f64() <= ratio["median"].as_f64()
            && ratio["median"].as_f64() <= ratio["high"].as_f64(),
        "{ratio}"
    );
    let read = |name: &str| std::fs::read_to_string(client.path().join(name)).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&read("r.json")).unwrap(), report);
    let page = read("r.html");
    let data = page.split_once("id=\"report\">").unwrap().1.split_once("</script>").unwrap().0;
    assert_eq!(serde_json::from_str::<Value>(data).unwrap(), report);
}

#[tokio::test]
async fn in_each_round_all_targets_are_asked_for_the_same() {
    let serve = || {
        Fake::serving(|mut visit: Visit| async move {
            visit.body().await;
            as_etcd(&mut visit);
        })
    };
    let (one, other) = (serve().await, serve().await);
    let compare = format!("--compare=a=https://{},b=https://{}", one.address, other.address);
    let load = [
        "--mix=put",
        "--keys=1000",
        "--connections=1",
        "--streams=1",
        "--warm-up=0s",
        "--rounds=2",
        "--count=41",
    ];
    BenchClient::direct().bench(&[&load[..], &[&compare]].concat()).await.report(0);
    let [puts, others] = [one, other].map(|fake| {
        fake.arrivals("Put").into_iter().map(|arrival| arrival.body).collect::<Vec<_>>()
    });
    assert_eq!((puts.len(), &puts), (41, &others));
    // 21 and 20: another round sends other requests.
    assert_ne!(puts[..20], puts[21..]);
}

#[tokio::test]
#[ignore = "needs chromium on PATH; .ci/run runs it"]
async fn a_browser_shows_the_page_and_loads_nothing_else() {
    let world = World::start(POLICY).await;
    let (endpoint, prefix) =
        (format!("--endpoint={}", world.endpoint()), format!("--prefix={}/", world.prefix));
    let client = BenchClient::client("bench");
    let report = client
        .bench(&[&*endpoint, &*prefix, "--count=200", "--keys=10", "--warm-up=0s", "--html=r.html"])
        .await
        .report(0);
    let file = client.path().join("r.html");
    let mut browser = tokio::process::Command::new("chromium");
    // No host name resolves.
    browser.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--dump-dom",
    ]);
    browser
        .arg(format!("--user-data-dir={}", client.path().join("profile").display()))
        .arg(format!("file://{}", file.display()));
    let ran =
        browser.output().await.expect("chromium is on PATH (Debian: apt-get install chromium)");
    let (shown, written) = (text(&ran.stdout), std::fs::read_to_string(&file).unwrap());
    for part in ["<svg", "<path", "<text", "<td", "<h3"] {
        assert!(written.matches(part).count() > 0, "{part}");
        assert_eq!(
            shown.matches(part).count(),
            written.matches(part).count(),
            "{part}: the browser reads another page"
        );
    }
    let data = shown.split_once("id=\"report\">").unwrap().1.split_once("</script>").unwrap().0;
    assert_eq!(serde_json::from_str::<Value>(data).unwrap(), report);
}

#[tokio::test]
async fn foreign_keys_prevent_a_run_and_survive_a_forced_one() {
    let world = World::start(POLICY).await;
    let key = world.key("another-program's");
    world.direct().await.put(key.clone(), "1", None).await.unwrap();
    let (endpoint, prefix) =
        (format!("--endpoint={}", world.endpoint()), format!("--prefix={}/", world.prefix));
    let arguments = [&*endpoint, &*prefix, "--count=20", "--keys=5", "--warm-up=0s"];
    let client = BenchClient::client("bench");
    let refused = client.bench(&arguments).await;
    assert_eq!(refused.0.status.code(), Some(1));
    assert!(refused.err().contains(&format!("such as {key}")), "{}", refused.err());
    client.bench(&[&arguments[..], &["--force"]].concat()).await.report(0);
    let left = world.direct().await.get(key.as_str(), None).await.unwrap();
    assert_eq!((left.kvs().len(), keys_left(&world).await), (1, 1));
}

#[tokio::test]
async fn errors_are_reported_all_at_once() {
    let client = BenchClient::direct();
    let arguments = [
        "--compare=a=https://127.0.0.1:1,a=https://127.0.0.1:2",
        "--pid=x=1",
        "--zipf=11",
        "--identities=none",
    ];
    let refused = client.bench(&arguments).await;
    assert_eq!(refused.0.status.code(), Some(78));
    for part in
        ["`a` twice", "`--pid` names no target", "--zipf 11", "none: cannot read the directory"]
    {
        assert!(refused.err().contains(part), "{part}: {}", refused.err());
    }
    let both = ["--endpoint=https://127.0.0.1:1", "--ramp=1..2", "--count=5"];
    let nowhere =
        client.bench(&["--endpoint=http://127.0.0.1:1", "--json=.", "--html=none/x.html"]).await;
    assert_eq!(nowhere.0.status.code(), Some(78));
    for part in
        ["`--json .` is a directory", "`--html none/x.html` is in a directory that does not exist"]
    {
        assert!(nowhere.err().contains(part), "{part}: {}", nowhere.err());
    }
    for usage in [
        &["--endpoint=https://127.0.0.1:1", "--mix=rang"][..],
        &["--endpoint=x"],
        &["--rate=5"],
        &both,
    ] {
        assert_eq!(client.bench(usage).await.0.status.code(), Some(64), "{usage:?}");
    }
}

/// Asserts that etcd counted the requests. For Ranges it also counts a few health checks of the
/// proxy.
fn is_counted(count: &Value) -> bool {
    count["agrees"] == true && (count["rpc"] == "Range" || count["ok"] == count["counted"])
}

const CALICO: &str = "
version: 1
mode: enforce
include: [calico/v3.31, calico/v3.31-per-node]
bindings:
  - { cn: \"calico-node:{node}\", roles: [calico-node-per-node] }
  - { cn: \"cni:{node}\", roles: [calico-cni-per-node] }
  - { cn: calico-kube-controllers, roles: [calico-kube-controllers] }
  - { cn: calicoctl-full, roles: [calicoctl-full] }
";

/// A folder as `certs issue --all --output directories` creates it for these nodes.
fn certificates(folder: &Path, nodes: &[&str]) {
    let set = |place: String, name: &str| {
        let (at, issued) = (folder.join(place), authorities().clients.client(name).unwrap());
        std::fs::create_dir_all(&at).unwrap();
        write_private(&at, "etcd-cert", &issued.certificate).unwrap();
        write_private(&at, "etcd-key", &issued.key).unwrap();
        write_private(&at, "etcd-ca", &authorities().clients.pem()).unwrap();
    };
    for node in nodes {
        set(format!("nodes/{node}/calico-node"), &format!("calico-node:{node}"));
        set(format!("nodes/{node}/cni"), &format!("cni:{node}"));
    }
    for component in ["calico-kube-controllers", "calicoctl-full"] {
        set(format!("cluster/{component}"), component);
    }
}

/// Runs the program with these arguments only.
async fn calico(folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
    command.args(["bench", "calico", "--output=json", "--identities=."]).args(arguments);
    command.current_dir(folder).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    Ran(tokio::time::timeout(Duration::from_secs(120), command.output())
        .await
        .expect("the process ends")
        .unwrap())
}

#[tokio::test]
async fn a_calico_cluster_per_node_is_refused_nothing_and_cleans_up() {
    let world = World::with(CALICO).own_etcd().start().await;
    let folder = tempfile::tempdir().unwrap();
    // Each name is a prefix of the next one, with dashes doubled or not.
    let nodes = ["worker", "worker-1", "worker-10"];
    certificates(folder.path(), &nodes);
    let (endpoint, metrics) = (format!("--endpoint={}", world.endpoint()), metrics(&world));
    let size = ["--time=2s", "--pods-per-second=10", "--pods-per-node=2", "--policies=3"];
    let arguments = [&[&*endpoint, &*metrics], &size[..]].concat();
    let report = calico(folder.path(), &arguments).await.report(0);
    let target = &report["steps"][0]["targets"][0];
    for one in target["series"].as_array().unwrap() {
        assert_eq!(one["failures"], Value::Array(vec![]), "{one:#}");
    }
    // CPU time of threads that have ended counts too: a single thread made a handshake every few
    // requests.
    assert!(target["generator_cpu_us"].as_f64().unwrap() > 20.0, "{target:#}");
    let ok = |name: &str| series(&report, 0, name)["ok"].as_u64().unwrap();
    assert_eq!((ok("node in sync"), ok("controllers in sync")), (3, 1));
    // Each node: Felix' 17 kinds and the blocks, confd's 5 and the affinities, pools and its own
    // Node, statuses.
    let watches = ["felix watch", "confd watch", "tunnel watch", "status watch"].map(ok);
    assert_eq!(watches, [3 * 18, 3 * 6, 3 * 2, 3]);
    assert!(
        ok("pod added") > 0
            && ok("pod removed") > 0
            && ok("calicoctl list") > 0
            && ok("controllers write") > 0
    );
    // A new pod is two events for each Felix, of its endpoint and its block. A removed pod is one
    // more of its block; for the deleted endpoint there is no time of writing. kube-controllers and
    // the starts of nodes come on top.
    assert!(ok("watch event") >= 3 * (2 * ok("pod added") + ok("pod removed")), "{report:#}");
    let counts = report["verification"]["etcd_counts"].as_array().unwrap();
    assert!(counts.len() == 2 && counts.iter().all(is_counted), "{counts:?}");
    assert_eq!(
        world.audit().iter().filter(|line| line["decision"] == "deny").collect::<Vec<_>>(),
        [&Value::Null; 0]
    );
    assert_eq!(keys_below(&world, "/calico/").await, [""; 0]);

    // One node too many, and existing keys.
    let refused = calico(folder.path(), &[&*endpoint, "--nodes=4"]).await;
    assert!(
        refused.0.status.code() == Some(78) && refused.err().contains("3 nodes have certificates"),
        "{}",
        refused.err()
    );
    world.direct().await.put("/calico/ipam/v2/x", "1", None).await.unwrap();
    let refused = calico(folder.path(), &arguments).await;
    assert!(
        refused.0.status.code() == Some(1) && refused.err().contains("such as /calico/ipam/v2/x"),
        "{}",
        refused.err()
    );
}
