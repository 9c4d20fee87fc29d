//! A call to etcd, made with etcd-client and shown in the syntax of etcdctl.

use std::fmt;

use etcd_client::{Client, CompactionOptions, DeleteOptions, GetOptions, WatchOptions};
use etcd_warden_core::method::Method;
use etcd_warden_core::printable::Printable;
use tonic::Code;

/// The prefix of Calico's resources (`libcalico-go/lib/backend/model/resource.go`), shown as `$R`.
pub(super) const R: &str = "/calico/resources/v3/projectcalico.org";

/// The value of every Put.
const VALUE: &str = "1";

/// A call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    Get(Keys),
    Watch(Keys),
    Put(&'static str),
    Delete(Keys),
    Compact(i64),
    Snapshot,
}

/// One key, or all keys below a prefix. `$R` stands for [`R`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Keys {
    One(&'static str),
    Prefix(&'static str),
}

/// The result for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// etcd responded.
    Passed,
    /// PERMISSION_DENIED.
    Refused,
    /// Any other error.
    Failed(String),
}

impl Call {
    /// Makes the call, and waits for the first response.
    pub(super) async fn make(self, client: &mut Client) -> Outcome {
        match self.attempt(client).await {
            Ok(outcome) => outcome,
            Err(etcd_client::Error::GRpcStatus(status))
                if status.code() == Code::PermissionDenied =>
            {
                Outcome::Refused
            }
            Err(error) => Outcome::Failed(Printable(&error.to_string()).to_string()),
        }
    }

    /// Its RPC.
    pub(super) fn method(self) -> Method {
        match self {
            Call::Get(_) => Method::Range,
            Call::Watch(_) => Method::Watch,
            Call::Put(_) => Method::Put,
            Call::Delete(_) => Method::DeleteRange,
            Call::Compact(_) => Method::Compact,
            Call::Snapshot => Method::Snapshot,
        }
    }

    async fn attempt(self, client: &mut Client) -> Result<Outcome, etcd_client::Error> {
        match self {
            Call::Get(keys) => {
                let options = keys.is_prefix().then(|| GetOptions::new().with_prefix());
                client.get(keys.key(), options).await?;
            }
            Call::Put(key) => {
                client.put(expand(key), VALUE, None).await?;
            }
            Call::Delete(keys) => {
                let options = keys.is_prefix().then(|| DeleteOptions::new().with_prefix());
                client.delete(keys.key(), options).await?;
            }
            Call::Compact(revision) => {
                client.compact(revision, None::<CompactionOptions>).await?;
            }
            Call::Snapshot => {
                let mut parts = client.snapshot().await?;
                while parts.message().await?.is_some() {}
            }
            Call::Watch(keys) => return watch(client, keys).await,
        }
        Ok(Outcome::Passed)
    }
}

/// A denied watch is created and canceled in one response, which has the reason.
async fn watch(client: &mut Client, keys: Keys) -> Result<Outcome, etcd_client::Error> {
    let options = keys.is_prefix().then(|| WatchOptions::new().with_prefix());
    let mut stream = client.watch(keys.key(), options).await?;
    Ok(match stream.message().await? {
        Some(response) if response.created() && !response.canceled() => Outcome::Passed,
        Some(response) if response.cancel_reason().contains("permission denied") => {
            Outcome::Refused
        }
        Some(response) => Outcome::Failed(format!(
            "the response to the watch is `{}`",
            Printable(response.cancel_reason())
        )),
        None => Outcome::Failed("no response to the watch".to_owned()),
    })
}

impl Keys {
    fn key(self) -> String {
        let (Keys::One(key) | Keys::Prefix(key)) = self;
        expand(key)
    }

    fn is_prefix(self) -> bool {
        matches!(self, Keys::Prefix(_))
    }
}

/// Replaces `$R`.
pub(super) fn expand(key: &str) -> String {
    key.replacen("$R", R, 1)
}

/// Abbreviates the prefix to `$R`, which a shell can expand.
pub(super) fn abbreviate(text: &str) -> String {
    text.replace(R, "$R")
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Get(keys) => write!(f, "get {keys}"),
            Call::Watch(keys) => write!(f, "watch {keys}"),
            Call::Put(key) => write!(f, "put {key} {VALUE}"),
            Call::Delete(keys) => write!(f, "del {keys}"),
            Call::Compact(revision) => write!(f, "compact {revision}"),
            Call::Snapshot => f.write_str("snapshot save backup.db"),
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keys::One(key) => f.write_str(key),
            Keys::Prefix(key) => write!(f, "--prefix {key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_the_syntax_of_etcdctl() {
        assert_eq!(Call::Get(Keys::Prefix("$R/nodes/")).to_string(), "get --prefix $R/nodes/");
        assert_eq!(Call::Delete(Keys::One("/a")).to_string(), "del /a");
        assert_eq!(expand("$R/nodes/"), "/calico/resources/v3/projectcalico.org/nodes/");
        assert_eq!(abbreviate(&expand("$R/nodes/")), "$R/nodes/");
    }
}
