//! A tonic channel to one member, over [`dial`], and its renewal.

use std::sync::Arc;

use etcd_warden_proto::etcdserverpb;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Uri};

use super::{Control, ControlError, REQUEST_TIMEOUT, in_time};
use crate::config::Endpoint;
use crate::tls::{LiveTls, Tls};
use crate::upstream::USER_AGENT;
use crate::upstream::dial::{ConnectError, FirstAddress, MemberSocket, dial};
use crate::upstream::health::NOT_FOR_LEARNERS;
use crate::upstream::members::{Member, MemberIndex};
use crate::upstream::renewal::{Renewable, RenewalError};

/// A channel, and the generation of the certificates when it was created.
pub(super) struct MemberChannel {
    pub(super) channel: Channel,
    generation: u64,
}

impl MemberChannel {
    /// Connects on its first request, with the TLS configuration in effect then. That is the same
    /// configuration as for clients' requests.
    pub(super) fn new(member: &Member, tls: &Arc<LiveTls>) -> Self {
        let generation = tls.current().upstream_generation;
        let (endpoint, from) = (member.endpoint.clone(), member.first_address.clone());
        // tonic uses the URI for `:authority` only; the connector has the address.
        let uri = Uri::builder()
            .scheme("http")
            .authority(endpoint.authority())
            .path_and_query("/")
            .build()
            .unwrap_or_default();
        let builder = Channel::builder(uri).connect_timeout(REQUEST_TIMEOUT);
        let builder = builder.clone().user_agent(USER_AGENT).unwrap_or(builder);
        let tls = tls.clone();
        let channel = builder.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (endpoint, from, tls) = (endpoint.clone(), from.clone(), tls.current());
            async move { connect(&endpoint, &from, &tls).await.map(TokioIo::new) }
        }));
        Self { channel, generation }
    }
}

async fn connect(
    endpoint: &Endpoint,
    from: &FirstAddress,
    tls: &Tls,
) -> Result<Box<dyn ByteStream>, ConnectError> {
    Ok(match dial(endpoint, from, tls).await? {
        MemberSocket::Plain(tcp) => Box::new(tcp),
        MemberSocket::Tls(stream) => stream,
    })
}

trait ByteStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> ByteStream for S {}

/// The channel to one member, for [`crate::upstream::renewal`].
pub(super) struct RenewableChannel {
    pub(super) control: Control,
    pub(super) index: MemberIndex,
}

impl Renewable for RenewableChannel {
    type Connection = MemberChannel;

    fn has_older(&self, generation: u64) -> bool {
        let slot = self.control.channels.get(self.index.0);
        slot.is_some_and(|slot| slot.load().generation < generation)
    }

    async fn open(&self) -> Result<MemberChannel, RenewalError> {
        let member = self.control.members.at(self.index).ok_or(RenewalError::Failed)?;
        let new = MemberChannel::new(member, &self.control.tls);
        match probe(new.channel.clone()).await {
            Ok(()) => Ok(new),
            Err(error) if error.is_untrusted() => Err(RenewalError::Untrusted),
            Err(_) => Err(RenewalError::Failed),
        }
    }

    fn replace_older(&self, _: u64, new: MemberChannel) {
        self.control.store(self.index, new);
    }

    fn close_older(&self, _: u64) {
        // The new channel has no connection. The old one ends with its last request, at the latest
        // after `REQUEST_TIMEOUT`.
        if let Some(member) = self.control.members.at(self.index) {
            self.control.store(self.index, MemberChannel::new(member, &self.control.tls));
        }
    }
}

/// Succeeds if etcd accepts the gateway's certificate; the member need not be able to serve.
async fn probe(channel: Channel) -> Result<(), ControlError> {
    let mut cluster = etcdserverpb::cluster_client::ClusterClient::new(channel);
    let list = cluster.member_list(etcdserverpb::MemberListRequest { linearizable: false });
    match in_time(list).await {
        Err(error) if error.is_auth() || error.is_etcd_error(NOT_FOR_LEARNERS) => Ok(()),
        response => response.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    /// The error of a request over a channel whose connector fails with `error`.
    async fn failure(error: ConnectError) -> ControlError {
        let connector = tower::service_fn(move |_: Uri| {
            let error = error.clone();
            async move { Err::<TokioIo<TcpStream>, _>(error) }
        });
        let channel =
            Channel::from_static("http://etcd.test").connect_with_connector_lazy(connector);
        probe(channel).await.unwrap_err()
    }

    /// The error of the connector is among the sources of the status that tonic returns.
    #[tokio::test]
    async fn recognises_an_untrusted_certificate_behind_tonic() {
        let why = || "unknown issuer".to_owned();
        assert!(failure(ConnectError::Untrusted(why())).await.is_untrusted());
        let other = failure(ConnectError::Tls(why())).await;
        assert!(!other.is_untrusted());
        assert_eq!(other.to_string(), "TLS handshake failed: unknown issuer");
    }
}
