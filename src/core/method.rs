//! The closed list of methods: every RPC that etcd 3.4 to 3.7 serves on its client port.
//!
//! A path is compared byte for byte with `/package.Service/Method`. Any other form (no leading
//! slash, another case, percent-encoding, a trailing slash, a query) is no method at all: grpc-go
//! once judged such a path differently from the way it routed it (CVE-2026-33186), and there is
//! nothing to gain from understanding it.
//!
//! Source of the list: `api/etcdserverpb/rpc.proto`,
//! `server/etcdserver/api/v3lock/v3lockpb/v3lock.proto` and `server/etcdserver/api/v3election/
//! v3electionpb/v3election.proto` of etcd 3.7.3; `grpc/health/v1/health.proto` of gRPC.

/// How many messages each side of a method sends, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One request, one answer, soon.
    Unary,
    /// One request, one answer, after an unbounded wait for another client (`Lock`, `Campaign`).
    Waiting,
    /// One request, then answers of unbounded size (`RangeStream`, `Snapshot`).
    Bulk,
    /// One request, then answers for as long as the client listens (`Observe`, health `Watch`).
    Subscription,
    /// Requests and answers in any order for as long as either side likes (`Watch`,
    /// `LeaseKeepAlive`).
    Conversation,
}

/// What a method may do to the cluster; decides what the audit calls a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Changes nothing.
    Reads,
    /// May change something.
    Writes,
}

macro_rules! methods {
    ($( $service:literal { $( $variant:ident = $rpc:literal, $shape:ident, $effect:ident; )+ } )+) => {
        /// One RPC of etcd's client port.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Method { $($(
            #[doc = concat!("`/", $service, "/", $rpc, "`")]
            $variant,
        )+)+ }

        impl Method {
            /// Every method, in the order of the services in etcd's `rpc.proto`.
            pub const ALL: &[Method] = &[$($(Method::$variant,)+)+];

            /// The method that `path` names exactly, or `None` for everything else.
            #[must_use]
            pub fn from_path(path: &str) -> Option<Method> {
                match path {
                    $($( concat!("/", $service, "/", $rpc) => Some(Method::$variant), )+)+
                    _ => None,
                }
            }

            /// The path as it stands in `:path`.
            #[must_use]
            pub const fn path(self) -> &'static str {
                match self { $($( Method::$variant => concat!("/", $service, "/", $rpc), )+)+ }
            }

            /// The name of the RPC alone, as etcd's `rpc.proto` writes it.
            #[must_use]
            pub const fn rpc(self) -> &'static str {
                match self { $($( Method::$variant => $rpc, )+)+ }
            }

            /// How many messages go each way.
            #[must_use]
            pub const fn shape(self) -> Shape {
                match self { $($( Method::$variant => Shape::$shape, )+)+ }
            }

            /// Whether the method may change anything.
            #[must_use]
            pub const fn effect(self) -> Effect {
                match self { $($( Method::$variant => Effect::$effect, )+)+ }
            }
        }
    };
}

methods! {
    "etcdserverpb.KV" {
        Range = "Range", Unary, Reads;
        RangeStream = "RangeStream", Bulk, Reads;
        Put = "Put", Unary, Writes;
        DeleteRange = "DeleteRange", Unary, Writes;
        Txn = "Txn", Unary, Writes;
        Compact = "Compact", Unary, Writes;
    }
    "etcdserverpb.Watch" {
        Watch = "Watch", Conversation, Reads;
    }
    "etcdserverpb.Lease" {
        LeaseGrant = "LeaseGrant", Unary, Writes;
        LeaseRevoke = "LeaseRevoke", Unary, Writes;
        LeaseKeepAlive = "LeaseKeepAlive", Conversation, Writes;
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
        Snapshot = "Snapshot", Bulk, Reads;
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
        Lock = "Lock", Waiting, Writes;
        Unlock = "Unlock", Unary, Writes;
    }
    "v3electionpb.Election" {
        Campaign = "Campaign", Waiting, Writes;
        Proclaim = "Proclaim", Unary, Writes;
        Leader = "Leader", Unary, Reads;
        Observe = "Observe", Subscription, Reads;
        Resign = "Resign", Unary, Writes;
    }
    "grpc.health.v1.Health" {
        HealthCheck = "Check", Unary, Reads;
        HealthList = "List", Unary, Reads;
        HealthWatch = "Watch", Subscription, Reads;
    }
}

impl Method {
    /// Whether it is one of gRPC's health service: under enforcement the proxy answers it itself,
    /// whatever its message says.
    #[must_use]
    pub const fn is_health(self) -> bool {
        matches!(self, Method::HealthCheck | Method::HealthList | Method::HealthWatch)
    }

    /// The method's place in [`Method::ALL`], for arrays that hold one entry per method.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_own_path_and_by_no_other_form() {
        for (place, &method) in Method::ALL.iter().enumerate() {
            let path = method.path();
            assert_eq!(method.index(), place);
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
