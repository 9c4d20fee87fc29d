//! The work of a kubelet for the pods of Calico's manifest, whose programs run here without
//! containers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use serde_json::Value;
use tokio::process::Command;

use super::apiserver::Apiserver;

const CONTAINERS: [&str; 3] = ["calico-node", "install-cni", "calico-kube-controllers"];

/// The kubelet of one node: environments and mounts of Calico's containers.
pub struct Kubelet {
    /// Where it puts the mounted Secrets.
    pub folder: PathBuf,
    /// The root of the node, for hostPath volumes.
    pub host: PathBuf,
    pub node: String,
    /// The objects in kube-apiserver, by kind and name.
    pub objects: BTreeMap<(String, String), Value>,
}

impl Kubelet {
    /// Reads the manifest that was applied last and puts the Secrets that its pods mount in place.
    pub async fn look(apiserver: &Apiserver, node: &str, folder: &Path, host: &Path) -> Self {
        let mut objects = BTreeMap::new();
        let namespaced = |group: &str, kind: &str, name: &str| {
            format!("{group}/namespaces/kube-system/{kind}/{name}")
        };
        for (kind, path) in [
            ("ConfigMap", namespaced("/api/v1", "configmaps", "calico-config")),
            ("DaemonSet", namespaced("/apis/apps/v1", "daemonsets", "calico-node")),
            ("Deployment", namespaced("/apis/apps/v1", "deployments", "calico-kube-controllers")),
        ] {
            let object = apiserver.get(&path).await.unwrap_or_else(|| panic!("there is no {path}"));
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            objects.insert((kind.to_owned(), name), object);
        }
        let kubelet = Self {
            folder: folder.to_owned(),
            host: host.to_owned(),
            node: node.to_owned(),
            objects,
        };
        for container in CONTAINERS {
            let Some(secret) = kubelet.volume(container)["secret"]["secretName"].as_str() else {
                continue;
            };
            let path = namespaced("/api/v1", "secrets", secret);
            let object = apiserver
                .get(&path)
                .await
                .unwrap_or_else(|| panic!("{container} waits for {path}"));
            let files = object["data"].as_object().unwrap();
            let content = |text: &Value| {
                base64::prelude::BASE64_STANDARD.decode(text.as_str().unwrap()).unwrap()
            };
            let files: Vec<_> =
                files.iter().map(|(name, text)| (name.as_str(), content(text))).collect();
            let mode = kubelet.volume(container)["secret"]["defaultMode"].as_u64().unwrap();
            lay(&kubelet.secrets(container), &files, u32::try_from(mode).unwrap());
        }
        kubelet
    }

    fn pod(&self, container: &str) -> &Value {
        let kind = if container == "calico-kube-controllers" { "Deployment" } else { "DaemonSet" };
        let ((_, _), object) = self.objects.iter().find(|((of, _), _)| of == kind).unwrap();
        &object["spec"]["template"]["spec"]
    }

    /// A container or an init container.
    pub fn container(&self, name: &str) -> &Value {
        let pod = self.pod(name);
        let all = ["initContainers", "containers"]
            .into_iter()
            .flat_map(|list| pod[list].as_array().into_iter().flatten());
        all.into_iter().find(|container| container["name"] == name).unwrap()
    }

    /// The volume at `/calico-secrets` of the container.
    pub fn volume(&self, container: &str) -> &Value {
        let mounts = self.container(container)["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["mountPath"] == "/calico-secrets").unwrap();
        self.pod(container)["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|volume| volume["name"] == mount["name"])
            .unwrap()
    }

    /// The folder at `/calico-secrets` of the container.
    pub fn secrets(&self, container: &str) -> PathBuf {
        let volume = self.volume(container);
        match volume["hostPath"]["path"].as_str() {
            Some(path) => self.host.clone().join(path.trim_start_matches('/')),
            None => {
                self.folder.join("secrets").join(volume["secret"]["secretName"].as_str().unwrap())
            }
        }
    }

    /// The container's environment.
    pub fn environment(&self, container: &str) -> Vec<(String, String)> {
        let entries = self.container(container)["env"].as_array().unwrap();
        let value = |entry: &Value| {
            let from = &entry["valueFrom"];
            if let Some(reference) = from.get("configMapKeyRef") {
                let map = &self.objects
                    [&("ConfigMap".to_owned(), reference["name"].as_str().unwrap().to_owned())];
                return map["data"][reference["key"].as_str().unwrap()]
                    .as_str()
                    .unwrap()
                    .to_owned();
            }
            match from["fieldRef"]["fieldPath"].as_str() {
                Some("spec.nodeName") => self.node.clone(),
                Some(other) => panic!("{other}"),
                None => entry["value"].as_str().unwrap_or_default().to_owned(),
            }
        };
        entries
            .iter()
            .map(|entry| (entry["name"].as_str().unwrap().to_owned(), value(entry)))
            .collect()
    }

    /// A program with its container's etcd settings; only its root is the host's.
    pub fn command(&self, program: &Path, container: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        for (name, value) in self.environment(container) {
            let value = match value.strip_prefix("/calico-secrets/") {
                Some(file) => self.secrets(container).join(file).display().to_string(),
                None => value,
            };
            command.env(name, value);
        }
        command.current_dir(&self.folder).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }
}

/// Writes the files that a container sees.
pub fn lay(folder: &Path, files: &[(&str, Vec<u8>)], mode: u32) {
    fs::create_dir_all(folder).unwrap();
    for (name, content) in files {
        let path = folder.join(name);
        // An old file may be read-only.
        let _ = fs::remove_file(&path);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}
