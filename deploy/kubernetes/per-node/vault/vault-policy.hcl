# What calico-node may do in Vault: ask for the certificates of its own node. `sign` is left out: keys are made in Vault and here only.
path "pki-calico/issue/calico-per-node" {
  capabilities = ["create", "update"]
}
