# What calico-node may do in Vault: ask for the certificates of its own node. `sign` is left out: keys are made in Vault and here only.
path "pki-calico/issue/calico-per-node" {
  capabilities = ["create", "update"]
  # What the templates send, and nothing else: `not_after` would go past the role's max_ttl, to the end of the CA.
  allowed_parameters = {
    "common_name"          = []
    "exclude_cn_from_sans" = []
    "ttl"                  = []
  }
}
