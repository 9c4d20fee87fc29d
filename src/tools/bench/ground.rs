//! The keys before and after: what is there already, what has to be there, and that nothing is
//! left.

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

/// For the whole list of the keys below a prefix: ten million take two minutes.
const LIST_WITHIN: Duration = Duration::from_secs(600);

/// Bytes that such a list may have.
const LIST: usize = 2 << 30;

/// Operations in one Txn: etcd's `--max-txn-ops` is 128, and a request may have 1.5 MiB.
const OPS: usize = 100;
const BYTES: usize = 1 << 20;

/// Keys of one page.
const PAGE: i64 = 5000;

/// Who writes and removes the keys, before and after the load.
pub struct Operator {
    connection: Connection,
    /// For one answer.
    patience: Duration,
}

impl Operator {
    /// Over this connection. Each answer may take so long, as those of the load.
    #[must_use]
    pub const fn new(connection: Connection, patience: Duration) -> Self {
        Self { connection, patience }
    }
}

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GroundError {
    /// Somebody else's keys are there.
    #[error(
        "{count} keys below `{prefix}` are not of this run, such as {example}: `--force` leaves them there and goes on"
    )]
    Foreign {
        /// How many.
        count: usize,
        /// Where.
        prefix: String,
        /// One of them.
        example: String,
    },
    /// Two targets that are not the same etcd.
    #[error("`{}` is cluster {:x} and `{}` is cluster {:x}: `--compare` is for several ways to one etcd, and two etcds take a run each", .first.0, .first.1, .other.0, .other.1)]
    Clusters {
        /// A target's name, and the id of its cluster.
        first: (String, u64),
        /// Another's.
        other: (String, u64),
    },
    /// One of several targets does not even say which cluster it is.
    #[error("`{target}`: {error}")]
    At {
        /// Its name.
        target: String,
        /// What came instead.
        error: Box<GroundError>,
    },
    /// A request failed.
    #[error("{doing}: {failure}")]
    Failed {
        /// What was to be done.
        doing: &'static str,
        /// What came instead.
        failure: Failure,
    },
}

/// Refuses targets that do not lead to the same etcd: keys are written and removed through one of
/// them alone. They are asked by somebody who is to load them, and so has to be let in.
///
/// # Errors
/// They do not, or one cannot be asked.
pub async fn one_cluster(targets: &[(String, Operator)], prefix: &str) -> Result<(), GroundError> {
    let mut first: Option<(String, u64)> = None;
    for (name, operator) in targets {
        let any = RangeRequest {
            key: prefix.as_bytes().to_vec(),
            limit: 1,
            keys_only: true,
            ..RangeRequest::default()
        };
        let asked =
            ask(operator, "asking each target which cluster it is", Method::Range, &any).await;
        let answer: RangeResponse = asked
            .map_err(|error| GroundError::At { target: name.clone(), error: Box::new(error) })?;
        let this = (name.clone(), answer.header.map_or(0, |header| header.cluster_id));
        match &first {
            None => first = Some(this),
            Some(first) if first.1 == this.1 => {}
            Some(first) => return Err(GroundError::Clusters { first: first.clone(), other: this }),
        }
    }
    Ok(())
}

/// Every key below a prefix.
///
/// # Errors
/// A page cannot be read, or is none that etcd gives; or there is no end of them.
pub async fn list(operator: &Operator, prefix: &[u8]) -> Result<Vec<Vec<u8>>, GroundError> {
    let failed = |failure| GroundError::Failed { doing: LISTING, failure };
    tokio::time::timeout(LIST_WITHIN, pages(operator, prefix))
        .await
        .unwrap_or_else(|_| Err(failed(Failure::Timeout)))
}

const LISTING: &str = "listing the keys below the prefix";

async fn pages(operator: &Operator, prefix: &[u8]) -> Result<Vec<Vec<u8>>, GroundError> {
    let wrong = |what: &str| {
        Err(GroundError::Failed { doing: LISTING, failure: Failure::Wrong(what.to_owned()) })
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
        let answer: RangeResponse = ask(operator, LISTING, Method::Range, &page).await?;
        for pair in answer.kvs {
            // Also what keeps a server that lies from leading this in a circle.
            if pair.key < from || !pair.key.starts_with(prefix) {
                return wrong("keys that were not asked for, or not in their order");
            }
            from = [pair.key.as_slice(), &[0]].concat();
            bytes = bytes.saturating_add(pair.key.len());
            keys.push(pair.key);
        }
        match (answer.more, bytes > LIST) {
            (false, _) => return Ok(keys),
            (true, true) => return wrong("more than 2 GiB of keys"),
            (true, false) if page.key == from => {
                return wrong("a page without a key, and more to come");
            }
            (true, false) => {}
        }
    }
}

/// The value of a key that is there.
///
/// # Errors
/// It cannot be read.
pub async fn value(operator: &Operator, key: &[u8]) -> Result<Option<Vec<u8>>, GroundError> {
    let one = RangeRequest { key: key.to_vec(), ..RangeRequest::default() };
    let answer: RangeResponse = ask(operator, "reading a key", Method::Range, &one).await?;
    Ok(answer.kvs.into_iter().next().map(|pair| pair.value))
}

/// Refuses keys that are not `ours`; gives those that are.
///
/// # Errors
/// There are some, or they cannot be listed.
pub async fn look(
    operator: &Operator,
    prefix: &str,
    force: bool,
    ours: impl Fn(&[u8]) -> bool,
) -> Result<Vec<Vec<u8>>, GroundError> {
    let (left, foreign): (Vec<_>, Vec<_>) =
        list(operator, prefix.as_bytes()).await?.into_iter().partition(|key| ours(key));
    match foreign.first() {
        Some(example) if !force => Err(GroundError::Foreign {
            count: foreign.len(),
            prefix: prefix.to_owned(),
            example: Escaped(example).to_string(),
        }),
        _ => Ok(left),
    }
}

/// Removes what an earlier run has left, and writes all data keys.
///
/// # Errors
/// A request fails, or it is to stop; some keys may be there then.
pub async fn prepare(
    operator: &Operator,
    keys: &Keys,
    left: &[Vec<u8>],
    stop: &Stop,
) -> Result<(), GroundError> {
    delete(operator, left).await?;
    let values =
        keys.data.iter().zip(0_u64..).map(|(key, index)| (key.clone(), keys.value(index, 0)));
    put(operator, values, stop).await
}

/// Removes what this program has written, key by key: whatever else is there stays.
///
/// # Errors
/// A request fails.
pub async fn clean(operator: &Operator, keys: &Keys) -> Result<(), GroundError> {
    let ours: Vec<_> = list(operator, keys.prefix.as_bytes())
        .await?
        .into_iter()
        .filter(|key| keys.is_ours(key))
        .collect();
    delete(operator, &ours).await
}

/// What a run gave, when the removal of its keys has ended: keys that are left are told whether it
/// went well or not.
///
/// # Errors
/// The run's own, with the keys that are left.
pub fn leave<T>(
    ran: Result<(T, Verification), String>,
    cleaned: Result<(), GroundError>,
    below: &str,
) -> Result<(T, Verification), String> {
    let left = cleaned.err().map(|error| format!("keys are left below {below}: {error}"));
    match (ran, left) {
        (Ok((gave, mut verification)), left) => {
            verification.mistakes.extend(left);
            Ok((gave, verification))
        }
        (Err(why), Some(left)) => Err(format!("{why}; {left}")),
        (Err(why), None) => Err(why),
    }
}

/// Writes pairs, many in one Txn.
async fn put(
    operator: &Operator,
    pairs: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    stop: &Stop,
) -> Result<(), GroundError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for (key, value) in pairs {
        let size = key.len() + value.len();
        if batch.len() >= OPS || (bytes + size > BYTES && !batch.is_empty()) {
            if stop.is_wanted() {
                return Err(GroundError::Failed {
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

/// Deletes keys, many in one Txn.
///
/// # Errors
/// A request fails.
pub async fn delete(operator: &Operator, keys: &[Vec<u8>]) -> Result<(), GroundError> {
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
) -> Result<(), GroundError> {
    if batch.is_empty() {
        return Ok(());
    }
    let success = batch.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
    let txn = TxnRequest { success, ..TxnRequest::default() };
    ask::<TxnResponse>(operator, doing, Method::Txn, &txn).await.map(drop)
}

async fn ask<M: Message + Default>(
    operator: &Operator,
    doing: &'static str,
    method: Method,
    message: &impl Message,
) -> Result<M, GroundError> {
    let failed = |failure| GroundError::Failed { doing, failure };
    let answer = operator
        .connection
        .call(method, frame::encode(&message.encode_to_vec()), operator.patience)
        .await
        .map_err(failed)?;
    M::decode(answer).map_err(|error| failed(Failure::Wrong(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_left_are_told_after_a_good_run_and_after_a_bad_one() {
        let failed =
            || Err(GroundError::Failed { doing: "deleting keys", failure: Failure::Timeout });
        let ((), verification) = leave(Ok(((), Verification::default())), failed(), "/p/").unwrap();
        assert_eq!(
            verification.mistakes,
            ["keys are left below /p/: deleting keys: no answer in time"]
        );
        let why = leave::<()>(Err("no thread".to_owned()), failed(), "/p/").unwrap_err();
        assert_eq!(why, "no thread; keys are left below /p/: deleting keys: no answer in time");
        assert_eq!(
            leave::<()>(Err("no thread".to_owned()), Ok(()), "/p/").unwrap_err(),
            "no thread"
        );
    }
}
