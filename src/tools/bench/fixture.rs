//! The keys of a run: checks for foreign keys, writes the data keys, and deletes all keys at the
//! end.

use std::time::Duration;

use etcd_warden_core::keyspace::{Escaped, prefix_end};
use etcd_warden_core::method::Method;
use etcd_warden_core::wire::frame;
use etcd_warden_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
    TxnResponse, request_op,
};
use prost::Message;

use super::connection::{Connection, Failure};
use super::keys::Keys;
use super::report::Verification;
use super::stop::Stop;

/// For listing all keys below a prefix: ten million keys take two minutes.
const LIST_WITHIN: Duration = Duration::from_secs(600);

/// Bytes that all listed keys together may have.
const LIST: usize = 2 << 30;

/// Operations per Txn: etcd's `--max-txn-ops` is 128, and a request may have 1.5 MiB.
const OPS: usize = 100;
const BYTES: usize = 1 << 20;

/// Keys per page.
const PAGE: i64 = 5000;

/// The client that writes and deletes the keys, before and after the load.
pub struct Operator {
    connection: Connection,
    /// Timeout of a request.
    request_timeout: Duration,
}

impl Operator {
    /// A client over this connection.
    #[must_use]
    pub const fn new(connection: Connection, request_timeout: Duration) -> Self {
        Self { connection, request_timeout }
    }
}

/// Why the keys could not be prepared or deleted.
#[derive(Debug, thiserror::Error)]
pub enum FixtureError {
    /// There are keys of others below the prefix.
    #[error(
        "{count} keys below `{prefix}` are not of this run, such as {example}: `--force` leaves them unchanged and continues"
    )]
    Foreign {
        /// Their number.
        count: usize,
        /// The prefix.
        prefix: String,
        /// One of the keys.
        example: String,
    },
    /// Two targets lead to different etcd clusters.
    #[error("`{}` is cluster {:x}, but `{}` is cluster {:x}: `--compare` is for several ways to one etcd; run the benchmark once for each cluster", .first.0, .first.1, .other.0, .other.1)]
    Clusters {
        /// A target's name and its cluster id.
        first: (String, u64),
        /// Those of another target.
        other: (String, u64),
    },
    /// The cluster id of a target could not be read.
    #[error("`{target}`: {error}")]
    At {
        /// The target's name.
        target: String,
        /// The cause.
        error: Box<FixtureError>,
    },
    /// A request failed.
    #[error("{doing}: {failure}")]
    Failed {
        /// The purpose of the request.
        doing: &'static str,
        /// The cause.
        failure: Failure,
    },
}

/// Checks that all targets lead to the same etcd, because keys are written and deleted through the
/// first one only. The requests use an identity of the load, which must have access.
///
/// # Errors
/// They do not, or a target does not response.
pub async fn check_same_cluster(
    targets: &[(String, Operator)],
    prefix: &str,
) -> Result<(), FixtureError> {
    let mut first: Option<(String, u64)> = None;
    for (name, operator) in targets {
        let any = RangeRequest {
            key: prefix.as_bytes().to_vec(),
            limit: 1,
            keys_only: true,
            ..RangeRequest::default()
        };
        let response =
            request(operator, "reading the cluster id of each target", Method::Range, &any).await;
        let response: RangeResponse = response
            .map_err(|error| FixtureError::At { target: name.clone(), error: Box::new(error) })?;
        let this = (name.clone(), response.header.map_or(0, |header| header.cluster_id));
        match &first {
            None => first = Some(this),
            Some(first) if first.1 == this.1 => {}
            Some(first) => {
                return Err(FixtureError::Clusters { first: first.clone(), other: this });
            }
        }
    }
    Ok(())
}

/// Lists all keys below a prefix.
///
/// # Errors
/// A page cannot be read or is invalid, or there are too many keys.
pub async fn list(operator: &Operator, prefix: &[u8]) -> Result<Vec<Vec<u8>>, FixtureError> {
    let failed = |failure| FixtureError::Failed { doing: LISTING, failure };
    tokio::time::timeout(LIST_WITHIN, pages(operator, prefix))
        .await
        .unwrap_or_else(|_| Err(failed(Failure::Timeout)))
}

const LISTING: &str = "listing the keys below the prefix";

async fn pages(operator: &Operator, prefix: &[u8]) -> Result<Vec<Vec<u8>>, FixtureError> {
    let wrong = |what: &str| {
        Err(FixtureError::Failed { doing: LISTING, failure: Failure::Wrong(what.to_owned()) })
    };
    let range_end = prefix_end(prefix).unwrap_or_default().into_vec();
    let (mut from, mut keys, mut bytes) = (prefix.to_vec(), Vec::new(), 0_usize);
    loop {
        let page = RangeRequest {
            key: from.clone(),
            range_end: range_end.clone(),
            limit: PAGE,
            keys_only: true,
            ..RangeRequest::default()
        };
        let response: RangeResponse = request(operator, LISTING, Method::Range, &page).await?;
        for pair in response.kvs {
            // This also protects against a server that would make the listing loop forever.
            if pair.key < from || !pair.key.starts_with(prefix) {
                return wrong("keys outside the requested range, or not in order");
            }
            from = [pair.key.as_slice(), &[0]].concat();
            bytes = bytes.saturating_add(pair.key.len());
            keys.push(pair.key);
        }
        match (response.more, bytes > LIST) {
            (false, _) => return Ok(keys),
            (true, true) => return wrong("more than 2 GiB of keys"),
            (true, false) if page.key == from => {
                return wrong("an empty page, although more keys are announced");
            }
            (true, false) => {}
        }
    }
}

/// The value of a key; `None` if it does not exist.
///
/// # Errors
/// It cannot be read.
pub async fn value(operator: &Operator, key: &[u8]) -> Result<Option<Vec<u8>>, FixtureError> {
    let one = RangeRequest { key: key.to_vec(), ..RangeRequest::default() };
    let response: RangeResponse = request(operator, "reading a key", Method::Range, &one).await?;
    Ok(response.kvs.into_iter().next().map(|pair| pair.value))
}

/// Returns the keys below a prefix that are `ours`. Fails if there are others, unless `force`.
///
/// # Errors
/// There are foreign keys, or the keys cannot be listed.
pub async fn find_leftovers(
    operator: &Operator,
    prefix: &str,
    force: bool,
    ours: impl Fn(&[u8]) -> bool,
) -> Result<Vec<Vec<u8>>, FixtureError> {
    let (left, foreign): (Vec<_>, Vec<_>) =
        list(operator, prefix.as_bytes()).await?.into_iter().partition(|key| ours(key));
    match foreign.first() {
        Some(example) if !force => Err(FixtureError::Foreign {
            count: foreign.len(),
            prefix: prefix.to_owned(),
            example: Escaped(example).to_string(),
        }),
        _ => Ok(left),
    }
}

/// Deletes the keys that an earlier run has left, and writes all data keys.
///
/// # Errors
/// A request fails, or the run is stopping. Some keys may exist then.
pub async fn prepare(
    operator: &Operator,
    keys: &Keys,
    left: &[Vec<u8>],
    stop: &Stop,
) -> Result<(), FixtureError> {
    delete(operator, left).await?;
    let values =
        keys.data.iter().zip(0_u64..).map(|(key, index)| (key.clone(), keys.value(index, 0)));
    put(operator, values, stop).await
}

/// Deletes all keys of this program, key by key. Other keys are not touched.
///
/// # Errors
/// A request fails.
pub async fn clean(operator: &Operator, keys: &Keys) -> Result<(), FixtureError> {
    let ours: Vec<_> = list(operator, keys.prefix.as_bytes())
        .await?
        .into_iter()
        .filter(|key| keys.is_ours(key))
        .collect();
    delete(operator, &ours).await
}

/// Combines the result of a run with that of deleting its keys, so that remaining keys are always
/// reported.
///
/// # Errors
/// The error of the run, and the remaining keys.
pub fn with_cleanup<T>(
    result: Result<(T, Verification), String>,
    cleaned: Result<(), FixtureError>,
    below: &str,
) -> Result<(T, Verification), String> {
    let left = cleaned.err().map(|error| format!("keys are left below {below}: {error}"));
    match (result, left) {
        (Ok((gave, mut verification)), left) => {
            verification.errors.extend(left);
            Ok((gave, verification))
        }
        (Err(why), Some(left)) => Err(format!("{why}; {left}")),
        (Err(why), None) => Err(why),
    }
}

/// Writes pairs, many per Txn.
async fn put(
    operator: &Operator,
    pairs: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    stop: &Stop,
) -> Result<(), FixtureError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for (key, value) in pairs {
        let size = key.len() + value.len();
        if batch.len() >= OPS || (bytes + size > BYTES && !batch.is_empty()) {
            if stop.is_requested() {
                return Err(FixtureError::Failed {
                    doing: "writing keys",
                    failure: Failure::Stopped,
                });
            }
            change(operator, "writing keys", std::mem::take(&mut batch)).await?;
            bytes = 0;
        }
        bytes += size;
        batch.push(request_op::Request::RequestPut(PutRequest {
            key,
            value,
            ..PutRequest::default()
        }));
    }
    change(operator, "writing keys", batch).await
}

/// Deletes keys, many per Txn.
///
/// # Errors
/// A request fails.
pub async fn delete(operator: &Operator, keys: &[Vec<u8>]) -> Result<(), FixtureError> {
    for some in keys.chunks(OPS) {
        let delete = |key: &Vec<u8>| DeleteRangeRequest {
            key: key.clone(),
            ..DeleteRangeRequest::default()
        };
        let batch =
            some.iter().map(|key| request_op::Request::RequestDeleteRange(delete(key))).collect();
        change(operator, "deleting keys", batch).await?;
    }
    Ok(())
}

async fn change(
    operator: &Operator,
    doing: &'static str,
    batch: Vec<request_op::Request>,
) -> Result<(), FixtureError> {
    if batch.is_empty() {
        return Ok(());
    }
    let success = batch.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
    let txn = TxnRequest { success, ..TxnRequest::default() };
    request::<TxnResponse>(operator, doing, Method::Txn, &txn).await.map(drop)
}

async fn request<M: Message + Default>(
    operator: &Operator,
    doing: &'static str,
    method: Method,
    message: &impl Message,
) -> Result<M, FixtureError> {
    let failed = |failure| FixtureError::Failed { doing, failure };
    let response = operator
        .connection
        .call(method, frame::encode(&message.encode_to_vec()), operator.request_timeout)
        .await
        .map_err(failed)?;
    M::decode(response).map_err(|error| failed(Failure::Wrong(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_keys_are_reported_after_success_and_failure() {
        let failed =
            || Err(FixtureError::Failed { doing: "deleting keys", failure: Failure::Timeout });
        let ((), verification) =
            with_cleanup(Ok(((), Verification::default())), failed(), "/p/").unwrap();
        assert_eq!(
            verification.errors,
            ["keys are left below /p/: deleting keys: no response in time"]
        );
        let why = with_cleanup::<()>(Err("no thread".to_owned()), failed(), "/p/").unwrap_err();
        assert_eq!(why, "no thread; keys are left below /p/: deleting keys: no response in time");
        assert_eq!(
            with_cleanup::<()>(Err("no thread".to_owned()), Ok(()), "/p/").unwrap_err(),
            "no thread"
        );
    }
}
