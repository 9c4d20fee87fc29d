# calico-node may request the certificates of its own node. `sign` is not granted: Vault creates the keys.
path "pki-calico/issue/calico-per-node" {
  capabilities = ["create", "update"]
  # Only the parameters that the templates send: `not_after` could exceed the role's max_ttl, up to the end of the CA.
  allowed_parameters = {
    "common_name"          = []
    "exclude_cn_from_sans" = []
    "ttl"                  = []
  }
}
