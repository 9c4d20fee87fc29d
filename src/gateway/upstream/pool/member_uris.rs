//! Request URIs of one member.

use etcd_warden_core::method::Method;
use http::Uri;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};

use super::Target;
use crate::config::Endpoint;

/// A member's scheme and authority, and the URI of each method there. A request clones a URI that
/// was built once.
pub(super) struct MemberUris {
    scheme: Scheme,
    authority: Authority,
    methods: Vec<Uri>,
}

impl MemberUris {
    /// `None` if the endpoint's host and port are not an authority (RFC 3986, 3.2).
    pub(super) fn of(endpoint: &Endpoint) -> Option<Self> {
        let mut uris = Self {
            scheme: if endpoint.tls { Scheme::HTTPS } else { Scheme::HTTP },
            authority: endpoint.authority().parse().ok()?,
            methods: Vec::new(),
        };
        uris.methods = Method::ALL
            .iter()
            .map(|method| uris.with_path(PathAndQuery::from_static(method.path())))
            .collect::<Option<_>>()?;
        Some(uris)
    }

    pub(super) fn uri(&self, target: &Target) -> Option<Uri> {
        match target {
            Target::Method(method) => self.methods.get(method.index()).cloned(),
            Target::Path(path) => self.with_path(path.clone()),
        }
    }

    fn with_path(&self, path: PathAndQuery) -> Option<Uri> {
        let mut parts = Parts::default();
        (parts.scheme, parts.authority, parts.path_and_query) =
            (Some(self.scheme.clone()), Some(self.authority.clone()), Some(path));
        Uri::from_parts(parts).ok()
    }
}
