//! Closed sets of label values, as types: what is not in the contract cannot be counted.

macro_rules! closed_set {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $meaning:literal])+ $variant:ident = $code:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[doc = $meaning])+ $variant,)+ }

        impl $name {
            /// The codes of all values.
            pub const CODES: &'static [&'static str] = &[$($code,)+];

            /// All values.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The value of the label.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $($name::$variant => $code,)+ }
            }
        }
    };
}

closed_set! {
    /// Why the proxy ended a live stream or watch.
    Termination {
        /// The policy changed, and the right is gone.
        Policy = "policy",
        /// The caller is enforced now, and was not when the stream began.
        Mode = "mode",
        /// The client's certificate ends, is revoked, or its CA is gone.
        Identity = "identity",
        /// `max-connection-age`.
        Age = "age",
        /// The proxy drains.
        Drain = "drain",
    }
}

closed_set! {
    /// Which limit refused a request or closed a connection.
    Limit {
        /// `max-handshakes`: one that took long made room for others.
        Handshakes = "handshakes",
        /// `max-connections`.
        Connections = "connections",
        /// `max-connections-per-identity`.
        ConnectionsPerIdentity = "connections-per-identity",
        /// `max-requests-in-flight`, of all or of one identity.
        RequestsInFlight = "requests-in-flight",
        /// `requests-per-second-per-identity`.
        RequestsPerSecond = "requests-per-second",
        /// `max-watches`, of all or of one identity.
        Watches = "watches",
        /// `max-request-bytes`.
        RequestBytes = "request-bytes",
        /// `max-held-bytes`.
        HeldBytes = "held-bytes",
        /// `max-unread-bytes`.
        UnreadBytes = "unread-bytes",
        /// Questions to etcd about leases of others, of all or of one identity.
        LeaseQuestions = "lease-questions",
        /// `authenticate-per-second`.
        Authenticate = "authenticate",
        /// `audit-queue`, with `audit-on-full: deny`.
        AuditQueue = "audit-queue",
        /// Messages of one stream in shadow mode that were passed on faster than they could be judged.
        Unjudged = "unjudged",
        /// `idle-timeout`.
        Idle = "idle",
        /// `grpc-keepalive-interval`: a ping without an answer.
        Keepalive = "keepalive",
        /// A flood of streams that the client reset at once (CVE-2023-44487).
        Resets = "resets",
        /// A flood of other frames that carry nothing on.
        Frames = "frames",
    }
}

/// Whose share a limit gives, so that one peer never has all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedBy {
    /// By identity: nobody has more than is left for all others ([`crate::proxy::quota`],
    /// [`crate::proxy::budget`], [`crate::audit`]).
    Identity,
    /// By address, where there is no identity yet ([`crate::crowd`]).
    Address,
    /// It is of one thing, which nobody shares: this one.
    One(&'static str),
}

impl SharedBy {
    /// As in the table of docs/limits.md.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Identity => "identity".to_owned(),
            Self::Address => "address".to_owned(),
            Self::One(thing) => format!("one {thing}"),
        }
    }
}

impl Limit {
    /// How it is shared. There is no limit of all together that one could use up alone.
    #[must_use]
    pub const fn shared_by(self) -> SharedBy {
        match self {
            Self::Handshakes => SharedBy::Address,
            Self::Connections
            | Self::ConnectionsPerIdentity
            | Self::RequestsInFlight
            | Self::RequestsPerSecond
            | Self::Watches
            | Self::HeldBytes
            | Self::UnreadBytes
            | Self::Authenticate
            | Self::LeaseQuestions
            | Self::AuditQueue => SharedBy::Identity,
            Self::RequestBytes => SharedBy::One("request"),
            Self::Unjudged => SharedBy::One("stream"),
            Self::Idle | Self::Keepalive | Self::Resets | Self::Frames => {
                SharedBy::One("connection")
            }
        }
    }
}

closed_set! {
    /// What failed on the way to etcd.
    UpstreamFailure {
        /// No TCP connection.
        Connect = "connect",
        /// No TLS.
        Tls = "tls",
        /// No HTTP/2, or a connection that the proxy's own HTTP/2 has ended.
        Protocol = "protocol",
        /// No connection in time.
        Timeout = "timeout",
        /// The connection ended while an answer was awaited.
        Lost = "lost",
        /// etcd reset the stream.
        Reset = "reset",
        /// etcd closed a connection because the proxy pinged it too often (`--grpc-keepalive-min-time`).
        TooManyPings = "too-many-pings",
        /// No member took the request.
        NoMember = "no-member",
    }
}

closed_set! {
    /// What is read again while the program runs, in the order in which a reload of everything goes.
    Reloaded {
        /// The client CAs and their revocation lists.
        Clients = "clients",
        /// The policy.
        Policy = "policy",
        /// The listener's own certificate.
        Server = "server",
        /// The proxy's own certificate towards etcd, and etcd's CA.
        Upstream = "upstream",
    }
}

closed_set! {
    /// Why a line of the log was not written.
    Unwritten {
        /// Standard error is not read, or too slowly, or cannot be written to.
        Full = "full",
        /// There were too many of its kind.
        Repeated = "repeated",
    }
}

closed_set! {
    /// An error of HTTP/2 (RFC 9113, 7).
    Http2Error {
        /// 0x01: the protocol was broken, or the request is malformed (8.1.1).
        Protocol = "protocol",
        /// 0x03.
        FlowControl = "flow-control",
        /// 0x05: a frame on a stream that has ended.
        StreamClosed = "stream-closed",
        /// 0x06.
        FrameSize = "frame-size",
        /// 0x07: more streams than `max-concurrent-streams`.
        RefusedStream = "refused-stream",
        /// 0x09: a header block that cannot be read.
        Compression = "compression",
        /// 0x0b.
        EnhanceYourCalm = "enhance-your-calm",
        /// Any other.
        Other = "other",
    }
}

impl Http2Error {
    /// What a code on the wire means.
    #[must_use]
    pub const fn of(code: u32) -> Self {
        match code {
            1 => Self::Protocol,
            3 => Self::FlowControl,
            5 => Self::StreamClosed,
            6 => Self::FrameSize,
            7 => Self::RefusedStream,
            9 => Self::Compression,
            11 => Self::EnhanceYourCalm,
            _ => Self::Other,
        }
    }

    /// What became of a stream.
    #[must_use]
    pub const fn of_stream(self) -> &'static str {
        match self {
            Self::Protocol => "the request is malformed: PROTOCOL_ERROR",
            Self::FlowControl => "more than the window of the stream: FLOW_CONTROL_ERROR",
            Self::StreamClosed => "a frame on a stream that had ended: STREAM_CLOSED",
            Self::RefusedStream => "too many streams: REFUSED_STREAM",
            _ => "the stream was reset",
        }
    }

    /// What became of a connection.
    #[must_use]
    pub const fn of_connection(self) -> &'static str {
        match self {
            Self::Protocol => "the connection ended: PROTOCOL_ERROR",
            Self::FlowControl => "the connection ended: FLOW_CONTROL_ERROR",
            Self::StreamClosed => "the connection ended: STREAM_CLOSED",
            Self::FrameSize => "the connection ended: FRAME_SIZE_ERROR",
            Self::Compression => "the connection ended: COMPRESSION_ERROR",
            Self::EnhanceYourCalm => "the connection ended: ENHANCE_YOUR_CALM",
            Self::RefusedStream | Self::Other => "the connection ended",
        }
    }
}
