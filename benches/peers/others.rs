//! Configures the other proxies. Each checks what it can: HAProxy, nginx and Envoy check the CN and
//! the path, and Envoy also keeps statistics and shadow rules; grpc-proxy checks only the CA. None
//! of them checks keys.

use std::path::Path;
use std::process::Command;

use etcd_warden_testbed::pki::{Files, write_private};

use crate::environment::{CLIENT, ProxySettings};

/// Returns the command that starts a proxy, if it is installed.
pub type Start = fn(&ProxySettings<'_>, etcd: &Path) -> Option<Command>;

/// The proxies by name. Each runs in one process with the given number of threads.
pub const ALL: [(&str, Start); 4] =
    [("haproxy", haproxy), ("nginx", nginx), ("envoy", envoy), ("grpc-proxy", grpc_proxy)];

/// The first of these programs that is installed.
fn installed(programs: &[&str]) -> Option<String> {
    let runs = |program: &&&str| {
        Command::new(program).arg("-v").output().is_ok()
            || Command::new(program).arg("--version").output().is_ok()
    };
    programs.iter().find(runs).map(|program| (*program).to_owned())
}

fn haproxy(settings: &ProxySettings<'_>, _: &Path) -> Option<Command> {
    let program = installed(&["haproxy", "/usr/sbin/haproxy"])?;
    let ProxySettings { folder, files, listen, etcd, workers } = settings;
    let both = |name: &str, files: &Files| {
        let text = std::fs::read_to_string(&files.cert).unwrap()
            + &std::fs::read_to_string(&files.key).unwrap();
        write_private(folder, name, &text).unwrap().display().to_string()
    };
    let (server, proxy) =
        (both("haproxy-server.pem", &files.server), both("haproxy-proxy.pem", &files.proxy));
    let ca = files.ca.display();
    let config = format!(
        "global\n  nbthread {workers}\n  maxconn 9800\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         frontend clients\n  bind {listen} ssl crt {server} ca-file {ca} verify required alpn h2\n  \
         http-request deny unless {{ ssl_c_s_dn(cn) {CLIENT} }}\n  http-request deny unless {{ path_beg /etcdserverpb. }}\n  \
         default_backend etcd\nbackend etcd\n  server etcd {etcd} ssl crt {proxy} ca-file {ca} verify required alpn h2\n"
    );
    let mut command = Command::new(program);
    command.arg("-f").arg(write_private(folder, "haproxy.cfg", &config).unwrap()).arg("-db");
    Some(command)
}

/// A single nginx process has one thread, so it is compared with one worker only.
fn nginx(settings: &ProxySettings<'_>, _: &Path) -> Option<Command> {
    let program = installed(&["nginx", "/usr/sbin/nginx"]).filter(|_| settings.workers == 1)?;
    let ProxySettings { folder, files, listen, etcd, .. } = settings;
    let (ca, folder_name) = (files.ca.display(), folder.display());
    let (cert, key) = (files.server.cert.display(), files.server.key.display());
    let (proxy_cert, proxy_key) = (files.proxy.cert.display(), files.proxy.key.display());
    let config = format!(
        "daemon off;\nmaster_process off;\npid {folder_name}/nginx.pid;\nerror_log {folder_name}/nginx.log warn;\nworker_rlimit_nofile 40000;\n\
         events {{ worker_connections 30000; }}\nhttp {{\n  access_log off;\n  keepalive_timeout 1h;\n  keepalive_requests 1000000000;\n  \
         client_body_temp_path {folder_name}/nginx-body;\n  proxy_temp_path {folder_name}/nginx-proxy;\n  fastcgi_temp_path {folder_name}/nginx-f;\n  \
         uwsgi_temp_path {folder_name}/nginx-u;\n  scgi_temp_path {folder_name}/nginx-s;\n  \
         map $ssl_client_s_dn $known {{ default 0; \"CN={CLIENT}\" 1; }}\n  \
         upstream etcd {{ server {etcd}; keepalive 64; keepalive_requests 1000000000; keepalive_timeout 1h; }}\n  \
         server {{\n    listen {listen} ssl http2;\n    ssl_certificate {cert};\n    ssl_certificate_key {key};\n    ssl_client_certificate {ca};\n    \
         ssl_verify_client on;\n    client_max_body_size 0;\n    http2_max_concurrent_streams 1000;\n    location /etcdserverpb. {{\n      \
         if ($known = 0) {{ return 403; }}\n      grpc_pass grpcs://etcd;\n      grpc_ssl_certificate {proxy_cert};\n      \
         grpc_ssl_certificate_key {proxy_key};\n      grpc_ssl_trusted_certificate {ca};\n      grpc_ssl_verify on;\n      grpc_ssl_name localhost;\n      \
         grpc_read_timeout 1h;\n      grpc_send_timeout 1h;\n    }}\n    location / {{ return 403; }}\n  }}\n}}\n"
    );
    let mut command = Command::new(program);
    command
        .arg("-p")
        .arg(folder)
        .arg("-c")
        .arg(write_private(folder, "nginx.conf", &config).unwrap());
    Some(command)
}

fn grpc_proxy(settings: &ProxySettings<'_>, etcd_program: &Path) -> Option<Command> {
    let ProxySettings { files, listen, etcd, workers, .. } = settings;
    let mut command = Command::new(etcd_program);
    command
        .args(["grpc-proxy", "start"])
        .arg(format!("--endpoints=https://{etcd}"))
        .arg(format!("--listen-addr={listen}"));
    command
        .arg("--cert")
        .arg(&files.proxy.cert)
        .arg("--key")
        .arg(&files.proxy.key)
        .arg("--cacert")
        .arg(&files.ca);
    command
        .arg("--cert-file")
        .arg(&files.server.cert)
        .arg("--key-file")
        .arg(&files.server.key)
        .arg("--trusted-ca-file")
        .arg(&files.ca);
    command
        .arg("--max-send-bytes=1000000000")
        .arg("--max-recv-bytes=1000000000")
        .env("GOMAXPROCS", workers.to_string());
    Some(command)
}

fn envoy(settings: &ProxySettings<'_>, _: &Path) -> Option<Command> {
    let program = installed(&[
        "envoy",
        concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/envoy/bin/envoy"),
    ])?;
    let ProxySettings { folder, files, listen, etcd, workers } = settings;
    let certificates = |context: &str, pair: &Files, more: &str| {
        format!(
            "{{\"@type\":\"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{context}\",{more}\"common_tls_context\":{{\
             \"alpn_protocols\":[\"h2\"],\"tls_certificates\":[{{\"certificate_chain\":{{\"filename\":{:?}}},\"private_key\":{{\"filename\":{:?}}}}}],\
             \"validation_context\":{{\"trusted_ca\":{{\"filename\":{:?}}}}}}}}}",
            pair.cert, pair.key, files.ca
        )
    };
    let server =
        certificates("DownstreamTlsContext", &files.server, "\"require_client_certificate\":true,");
    let client = certificates("UpstreamTlsContext", &files.proxy, "");
    let rules = |prefix: &str| {
        format!(
            "{{\"action\":\"ALLOW\",\"policies\":{{\"node\":{{\"permissions\":[{{\"url_path\":{{\"path\":{{\"prefix\":\"{prefix}\"}}}}}}],\
             \"principals\":[{{\"authenticated\":{{\"principal_name\":{{\"exact\":\"CN={CLIENT}\"}}}}}}]}}}}}}"
        )
    };
    let (enforced, shadow) = (rules("/etcdserverpb."), rules("/etcdserverpb.KV/"));
    let address = |of: &std::net::SocketAddr| {
        format!(
            "{{\"socket_address\":{{\"address\":\"{}\",\"port_value\":{}}}}}",
            of.ip(),
            of.port()
        )
    };
    let (here, there) = (address(listen), address(etcd));
    let config = format!(
        r#"{{"static_resources":{{"listeners":[{{"address":{here},"filter_chains":[{{"transport_socket":{{"name":"tls","typed_config":{server}}},
"filters":[{{"name":"envoy.filters.network.http_connection_manager","typed_config":{{
"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
"stat_prefix":"clients","codec_type":"HTTP2","stream_idle_timeout":"0s","http2_protocol_options":{{"max_concurrent_streams":1000}},
"http_filters":[
{{"name":"rbac","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC","rules":{enforced},"shadow_rules":{shadow}}}}},
{{"name":"router","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}}}],
"route_config":{{"virtual_hosts":[{{"name":"etcd","domains":["*"],"routes":[{{"match":{{"prefix":"/"}},
"route":{{"cluster":"etcd","timeout":"0s"}}}}]}}]}}}}}}]}}]}}],
"clusters":[{{"name":"etcd","type":"STATIC","connect_timeout":"5s",
"load_assignment":{{"cluster_name":"etcd","endpoints":[{{"lb_endpoints":[{{"endpoint":{{"address":{there}}}}}]}}]}},
"circuit_breakers":{{"thresholds":[{{"max_connections":100000,"max_requests":100000,"max_pending_requests":100000}}]}},
"transport_socket":{{"name":"tls","typed_config":{client}}},
"typed_extension_protocol_options":{{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{{
"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{{"http2_protocol_options":{{}}}}}}}}}}]}}}}"#
    );
    let mut command = Command::new(program);
    command
        .arg("-c")
        .arg(write_private(folder, "envoy.json", &config).unwrap())
        .args(["--concurrency", &workers.to_string()]);
    command.args(["--disable-hot-restart", "--log-level", "error"]);
    Some(command)
}
