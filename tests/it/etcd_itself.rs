//! The etcd that the other tests rely on: found, started, killed, paused, restarted and removed.

use std::path::PathBuf;
use std::process::Command;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use etcd_warden_testbed::etcd::{Etcd, Options, Release, Tls};
use etcd_warden_testbed::pki::{Authority, Leaf, Usage};

use crate::world::{TEST_ETCD, programs};

#[test]
fn the_programs_are_the_ones_that_were_asked_for() {
    let programs = programs();
    match std::env::var(TEST_ETCD) {
        Ok(minor) if Release::of_minor(&minor).is_some() => {
            assert!(programs.version.to_string().starts_with(&minor));
        }
        Ok(path) => assert!(programs.etcd.starts_with(path)),
        Err(_) => assert_eq!(programs.version, Release::newest().version()),
    }
    assert!(
        programs.etcdctl.is_some() && programs.etcdutl.is_some(),
        "the tests need etcdctl and etcdutl beside {programs:?}"
    );
}

#[tokio::test]
async fn data_survives_a_kill_and_a_restart() {
    let mut etcd = Etcd::start(programs(), Options::default()).await.unwrap();
    let mut client = Client::connect(etcd.endpoints(), None).await.unwrap();
    client.put("a", "1", None).await.unwrap();
    etcd.kill(0);
    assert!(client.get("a", None).await.is_err());
    etcd.restart(0).await.unwrap();
    assert_eq!(client.get("a", None).await.unwrap().kvs()[0].value(), b"1");
}

#[tokio::test]
async fn a_paused_member_responds_only_after_it_resumes() {
    let etcd = Etcd::start(programs(), Options::default()).await.unwrap();
    let mut client = Client::connect(etcd.endpoints(), None).await.unwrap();
    etcd.pause(0).unwrap();
    let waiting = tokio::spawn(async move { client.put("a", "1", None).await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    etcd.resume(0).unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn three_members_are_one_cluster() {
    let etcd = Etcd::start(programs(), Options { members: 3, ..Options::default() }).await.unwrap();
    let mut first = Client::connect(&etcd.endpoints()[..1], None).await.unwrap();
    let mut last = Client::connect(&etcd.endpoints()[2..], None).await.unwrap();
    first.put("a", "1", None).await.unwrap();
    assert_eq!(last.get("a", None).await.unwrap().kvs()[0].value(), b"1");
    assert_eq!(last.member_list().await.unwrap().members().len(), 3);
}

#[tokio::test]
async fn with_tls_only_a_certificate_of_the_trusted_authority_gets_in() {
    let authority = Authority::new("upstream").unwrap();
    let server = authority.issue(&Leaf::server(&["127.0.0.1"]).usage(Usage::Both)).unwrap();
    let tls = Tls { server, trusted_ca: authority.pem() };
    let etcd =
        Etcd::start(programs(), Options { tls: Some(tls), ..Options::default() }).await.unwrap();

    let with = |tls: TlsOptions| {
        ConnectOptions::new().with_tls(tls.ca_certificate(Certificate::from_pem(authority.pem())))
    };
    let own = authority.client("root").unwrap();
    let identity = Identity::from_pem(&own.certificate, &own.key);
    let mut client =
        Client::connect(etcd.endpoints(), Some(with(TlsOptions::new().identity(identity))))
            .await
            .unwrap();
    client.put("a", "1", None).await.unwrap();
    assert!(
        etcd.metrics(0)
            .await
            .unwrap()
            .contains(r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Put""#)
    );

    let stranger = Authority::new("another").unwrap().client("root").unwrap();
    let identity = Identity::from_pem(&stranger.certificate, &stranger.key);
    for tls in [TlsOptions::new(), TlsOptions::new().identity(identity)] {
        let client = Client::connect(etcd.endpoints(), Some(with(tls))).await;
        let refused = match client {
            Err(_) => true,
            Ok(mut client) => client.get("a", None).await.is_err(),
        };
        assert!(refused);
    }
}

#[tokio::test]
async fn a_failed_start_shows_the_end_of_the_log() {
    let flags = vec!["--auth-token=nonsense".to_owned()];
    let error = Etcd::start(programs(), Options { flags, ..Options::default() })
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.starts_with("etcd exited; the end of its log:\n"), "{error}");
    assert!(error.contains("token"), "{error}");
}

#[tokio::test]
async fn nothing_is_left_when_it_is_dropped() {
    let etcd = Etcd::start(programs(), Options::default()).await.unwrap();
    let data = etcd.data_dir(0).unwrap();
    let endpoint = etcd.addresses()[0];
    assert!(data.is_dir());
    drop(etcd);
    assert!(!data.parent().unwrap().exists());
    assert!(std::net::TcpStream::connect(endpoint).is_err());
}

/// Not a test of its own: it is the process that the next test kills.
#[tokio::test]
#[ignore = "started by an_etcd_dies_with_the_process_that_started_it"]
async fn start_an_etcd_and_wait() {
    let etcd = Etcd::start(programs(), Options::default()).await.unwrap();
    println!("etcd {} {}", etcd.addresses()[0], etcd.data_dir(0).unwrap().display());
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
}

#[test]
fn an_etcd_dies_with_the_process_that_started_it() {
    use std::io::{BufRead as _, BufReader};
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "etcd_itself::start_an_etcd_and_wait", "--nocapture"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let line = lines
        .find_map(|line| line.unwrap().split_once("etcd ").map(|(_, rest)| rest.to_owned()))
        .unwrap();
    let (address, data) = line.split_once(' ').unwrap();
    std::net::TcpStream::connect(address).unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    let gone = || std::net::TcpStream::connect(address).is_err() && !PathBuf::from(data).exists();
    for _ in 0..500 {
        if gone() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("etcd at {address} outlived the process that started it");
}
