//! Label values as enums, so that code can count only values of the contract. All are snake_case.

macro_rules! closed_set {
    (
        $(#[doc = $about:literal])+
        $name:ident { $($(#[doc = $meaning:literal])+ $variant:ident = $code:literal,)+ }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[doc = $meaning])+ $variant,)+ }

        impl $name {
            /// The label values of [`Self::ALL`].
            pub const CODES: &'static [&'static str] = &[$($code,)+];

            /// All variants.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The label value.
            pub const fn code(self) -> &'static str {
                match self { $($name::$variant => $code,)+ }
            }
        }
    };
}

closed_set! {
    /// Why the gateway ended an open stream or watch.
    Termination {
        /// A new policy no longer grants the right.
        Policy = "policy",
        /// The client was in shadow mode when the stream began, and is now in enforce mode.
        Mode = "mode",
        /// The client's certificate expires or is revoked, or its CA is no longer trusted.
        Identity = "identity",
        /// The connection has reached `max-connection-age`.
        Age = "age",
        /// The gateway drains.
        Drain = "drain",
    }
}

closed_set! {
    /// The limit that refused a request or closed a connection.
    Limit {
        /// `max-handshakes`: a slow handshake was ended to make room for others.
        Handshakes = "handshakes",
        /// `max-connections`.
        Connections = "connections",
        /// `max-connections-per-identity`.
        ConnectionsPerIdentity = "connections_per_identity",
        /// `max-requests-in-flight`, or its share or limit per identity.
        RequestsInFlight = "requests_in_flight",
        /// `requests-per-second-per-identity`.
        RequestsPerSecond = "requests_per_second",
        /// `max-watches`, or its share or limit per identity.
        Watches = "watches",
        /// `max-request-bytes`.
        RequestBytes = "request_bytes",
        /// `max-held-bytes`.
        HeldBytes = "held_bytes",
        /// `max-unread-bytes`.
        UnreadBytes = "unread_bytes",
        /// Questions to etcd about leases of other identities.
        LeaseQuestions = "lease_questions",
        /// `authenticate-per-second`.
        Authenticate = "authenticate",
        /// `audit-queue`, with `audit-on-full: deny`.
        AuditQueue = "audit_queue",
        /// In shadow mode, messages of one stream that were forwarded but not judged.
        Unjudged = "unjudged",
        /// `idle-timeout`.
        Idle = "idle",
        /// `grpc-keepalive-interval`: a ping was not answered.
        Keepalive = "keepalive",
        /// A flood of streams that the client reset immediately (CVE-2023-44487).
        Resets = "resets",
        /// A flood of other frames that make no progress.
        Frames = "frames",
    }
}

/// How a limit is shared, so that no single peer can use all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedBy {
    /// By identity (`crate::limiter::fair_share`).
    Identity,
    /// By address, before the identity is known (`crate::origin_table`).
    Address,
    /// Not shared: it limits one request, stream or connection.
    One(&'static str),
}

impl SharedBy {
    /// The name in the table of docs/limits.md.
    pub fn name(self) -> String {
        match self {
            Self::Identity => "identity".to_owned(),
            Self::Address => "address".to_owned(),
            Self::One(thing) => format!("one {thing}"),
        }
    }
}

impl Limit {
    /// How the limit is shared.
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
    /// A failure to reach etcd.
    UpstreamFailure {
        /// The TCP connection failed.
        Connect = "connect",
        /// The TLS handshake failed.
        Tls = "tls",
        /// The HTTP/2 handshake failed, or the gateway's HTTP/2 layer closed the connection.
        Protocol = "protocol",
        /// The connection was not established in time.
        Timeout = "timeout",
        /// The connection was lost before the response was complete.
        Lost = "lost",
        /// etcd reset the stream.
        Reset = "reset",
        /// etcd closed the connection because of too many pings (`--grpc-keepalive-min-time`).
        TooManyPings = "too_many_pings",
        /// No member accepted the request.
        NoMember = "no_member",
    }
}

closed_set! {
    /// The files that are reloaded together, in the order of a reload of all.
    Reloaded {
        /// The client CAs and their revocation lists.
        Clients = "clients",
        /// The policy.
        Policy = "policy",
        /// The listener's certificate.
        Server = "server",
        /// The gateway's client certificate for etcd, and etcd's CA.
        Upstream = "upstream",
    }
}

closed_set! {
    /// Why a line of the log was lost.
    Unwritten {
        /// Standard error was not read or was read too slowly, or writing to it failed.
        Full = "full",
        /// There were too many similar lines.
        Repeated = "repeated",
    }
}

closed_set! {
    /// An HTTP/2 error code (RFC 9113, section 7).
    Http2Error {
        /// 0x01: a protocol error, or a malformed request (section 8.1.1).
        Protocol = "protocol",
        /// 0x03: more data than the window allows.
        FlowControl = "flow_control",
        /// 0x05: a frame on a closed stream.
        StreamClosed = "stream_closed",
        /// 0x06: a frame of an invalid size.
        FrameSize = "frame_size",
        /// 0x07: more streams than `max-concurrent-streams`.
        RefusedStream = "refused_stream",
        /// 0x09: a header block that cannot be decoded.
        Compression = "compression",
        /// 0x0b: excessive load.
        EnhanceYourCalm = "enhance_your_calm",
        /// Any other code.
        Other = "other",
    }
}

impl Http2Error {
    /// The error of a code on the wire.
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

    /// Describes a stream that was reset with this error, for the audit log.
    pub const fn of_stream(self) -> &'static str {
        match self {
            Self::Protocol => "malformed request: PROTOCOL_ERROR",
            Self::FlowControl => "stream window exceeded: FLOW_CONTROL_ERROR",
            Self::StreamClosed => "frame on a closed stream: STREAM_CLOSED",
            Self::RefusedStream => "too many streams: REFUSED_STREAM",
            _ => "stream reset",
        }
    }

    /// Describes a connection that was closed with this error, for the audit log.
    pub const fn of_connection(self) -> &'static str {
        match self {
            Self::Protocol => "connection closed: PROTOCOL_ERROR",
            Self::FlowControl => "connection closed: FLOW_CONTROL_ERROR",
            Self::StreamClosed => "connection closed: STREAM_CLOSED",
            Self::FrameSize => "connection closed: FRAME_SIZE_ERROR",
            Self::Compression => "connection closed: COMPRESSION_ERROR",
            Self::EnhanceYourCalm => "connection closed: ENHANCE_YOUR_CALM",
            Self::RefusedStream | Self::Other => "connection closed",
        }
    }
}
