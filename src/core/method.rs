//! The closed list of methods: every RPC that etcd 3.4 to 3.7 serves on its client port.
//!
//! A path is compared byte for byte with `/package.Service/Method`. Every other form is an unknown
//! method: no leading slash, other case, percent-encoding, a trailing slash, a query. grpc-go once
//! authorized such a path under one name and routed it under another (CVE-2026-33186). No client
//! needs such a path.
//!
//! Sources of the list: `api/etcdserverpb/rpc.proto`,
//! `server/etcdserver/api/v3lock/v3lockpb/v3lock.proto` and
//! `server/etcdserver/api/v3election/v3electionpb/v3election.proto` of etcd 3.7.3;
//! `grpc/health/v1/health.proto` of gRPC.

/// The kind of a gRPC method, refined by how long its calls last and how much they return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// One request, one response within a short time.
    Unary,
    /// One request, one response. The call blocks until another client acts, without a bound
    /// (`Lock`, `Campaign`).
    BlockingUnary,
    /// Server streaming: one request, then responses of unbounded total size (`RangeStream`,
    /// `Snapshot`).
    BulkStreaming,
    /// Server streaming: one request, then responses until the client ends the call (`Observe`,
    /// health `Watch`).
    ServerStreaming,
    /// Bidirectional streaming: requests and responses in any order until either peer ends the call
    /// (`Watch`, `LeaseKeepAlive`).
    BidiStreaming,
}

/// Whether a method can change the cluster. The audit log uses this to select writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Never changes anything.
    Reads,
    /// May change keys, leases or the cluster.
    Writes,
}

macro_rules! methods {
    ($( $service:literal { $( $variant:ident = $rpc:literal, $kind:ident, $effect:ident; )+ } )+) => {
        /// An RPC of etcd's client port.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Method { $($(
            #[doc = concat!("`/", $service, "/", $rpc, "`")]
            $variant,
        )+)+ }

        impl Method {
            /// Every method, in the order of the services in etcd's `rpc.proto`.
            pub const ALL: &[Method] = &[$($(Method::$variant,)+)+];

            /// The method with exactly this path; `None` for every other path.
            pub fn from_path(path: &str) -> Option<Method> {
                match path {
                    $($( concat!("/", $service, "/", $rpc) => Some(Method::$variant), )+)+
                    _ => None,
                }
            }

            /// The value of `:path`.
            pub const fn path(self) -> &'static str {
                match self { $($( Method::$variant => concat!("/", $service, "/", $rpc), )+)+ }
            }

            /// The name of the RPC in etcd's `rpc.proto`, without its service.
            pub const fn rpc(self) -> &'static str {
                match self { $($( Method::$variant => $rpc, )+)+ }
            }

            /// The kind of call.
            pub const fn call_kind(self) -> CallKind {
                match self { $($( Method::$variant => CallKind::$kind, )+)+ }
            }

            /// Whether the method can change the cluster.
            pub const fn effect(self) -> Effect {
                match self { $($( Method::$variant => Effect::$effect, )+)+ }
            }
        }
    };
}

methods! {
    "etcdserverpb.KV" {
        Range = "Range", Unary, Reads;
        RangeStream = "RangeStream", BulkStreaming, Reads;
        Put = "Put", Unary, Writes;
        DeleteRange = "DeleteRange", Unary, Writes;
        Txn = "Txn", Unary, Writes;
        Compact = "Compact", Unary, Writes;
    }
    "etcdserverpb.Watch" {
        Watch = "Watch", BidiStreaming, Reads;
    }
    "etcdserverpb.Lease" {
        LeaseGrant = "LeaseGrant", Unary, Writes;
        LeaseRevoke = "LeaseRevoke", Unary, Writes;
        LeaseKeepAlive = "LeaseKeepAlive", BidiStreaming, Writes;
        LeaseTimeToLive = "LeaseTimeToLive", Unary, Reads;
        LeaseLeases = "LeaseLeases", Unary, Reads;
    }
    "etcdserverpb.Cluster" {
        MemberAdd = "MemberAdd", Unary, Writes;
        MemberRemove = "MemberRemove", Unary, Writes;
        MemberUpdate = "MemberUpdate", Unary, Writes;
        MemberList = "MemberList", Unary, Reads;
        MemberPromote = "MemberPromote", Unary, Writes;
    }
    "etcdserverpb.Maintenance" {
        Alarm = "Alarm", Unary, Writes;
        Status = "Status", Unary, Reads;
        Defragment = "Defragment", Unary, Writes;
        Hash = "Hash", Unary, Reads;
        HashKV = "HashKV", Unary, Reads;
        Snapshot = "Snapshot", BulkStreaming, Reads;
        MoveLeader = "MoveLeader", Unary, Writes;
        Downgrade = "Downgrade", Unary, Writes;
    }
    "etcdserverpb.Auth" {
        AuthEnable = "AuthEnable", Unary, Writes;
        AuthDisable = "AuthDisable", Unary, Writes;
        AuthStatus = "AuthStatus", Unary, Reads;
        Authenticate = "Authenticate", Unary, Writes;
        UserAdd = "UserAdd", Unary, Writes;
        UserGet = "UserGet", Unary, Reads;
        UserList = "UserList", Unary, Reads;
        UserDelete = "UserDelete", Unary, Writes;
        UserChangePassword = "UserChangePassword", Unary, Writes;
        UserGrantRole = "UserGrantRole", Unary, Writes;
        UserRevokeRole = "UserRevokeRole", Unary, Writes;
        RoleAdd = "RoleAdd", Unary, Writes;
        RoleGet = "RoleGet", Unary, Reads;
        RoleList = "RoleList", Unary, Reads;
        RoleDelete = "RoleDelete", Unary, Writes;
        RoleGrantPermission = "RoleGrantPermission", Unary, Writes;
        RoleRevokePermission = "RoleRevokePermission", Unary, Writes;
    }
    "v3lockpb.Lock" {
        Lock = "Lock", BlockingUnary, Writes;
        Unlock = "Unlock", Unary, Writes;
    }
    "v3electionpb.Election" {
        Campaign = "Campaign", BlockingUnary, Writes;
        Proclaim = "Proclaim", Unary, Writes;
        Leader = "Leader", Unary, Reads;
        Observe = "Observe", ServerStreaming, Reads;
        Resign = "Resign", Unary, Writes;
    }
    "grpc.health.v1.Health" {
        HealthCheck = "Check", Unary, Reads;
        HealthList = "List", Unary, Reads;
        HealthWatch = "Watch", ServerStreaming, Reads;
    }
}

impl Method {
    /// True for gRPC's health service. When the policy is enforced, the gateway answers these calls
    /// itself and does not read their messages.
    pub const fn is_health(self) -> bool {
        matches!(self, Method::HealthCheck | Method::HealthList | Method::HealthWatch)
    }

    /// The index of the method in [`Method::ALL`], for arrays with one entry per method.
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_is_found_by_its_exact_path_only() {
        for (index, &method) in Method::ALL.iter().enumerate() {
            let path = method.path();
            assert_eq!(method.index(), index);
            assert_eq!(Method::from_path(path), Some(method));
            for other in [
                path[1..].to_owned(),
                format!("/{path}"),
                format!("{path}/"),
                format!("{path}?x=1"),
                path.to_lowercase(),
                path.replace('.', "%2e"),
                format!("{path} "),
            ] {
                assert_eq!(Method::from_path(&other), None, "{other}");
            }
        }
    }
}
