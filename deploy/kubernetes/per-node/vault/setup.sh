#!/usr/bin/env bash
# Once, as an administrator of Vault. It needs `vault` and `jq`, VAULT_ADDR, VAULT_TOKEN, and the keys with which kube-apiserver signs the
# tokens of service accounts:
#   kubectl get --raw /openid/v1/jwks > jwks.json
# converted to PEM (jwt_validation_pubkeys), or a URL that Vault can reach (jwks_url). With keys Vault needs no API server, so certificates
# are issued also while none is running.
#
#   PUBKEYS=sa.pub ISSUER=https://kubernetes.default.svc.cluster.local ./setup.sh
set -euo pipefail
cd "$(dirname "$0")"
: "${PUBKEYS:?the public key of --service-account-key-file, PEM}" "${ISSUER:?the value of --service-account-issuer}"

# An issuing CA for nodes only. The proxy has it as `nodes` in `trusted-ca-file`, and policy.yaml binds only nodes to it.
vault secrets enable -path=pki-calico pki
vault secrets tune -max-lease-ttl=87600h pki-calico
vault write -field=certificate pki-calico/root/generate/internal common_name=calico-nodes key_type=ec key_bits=256 ttl=87600h > nodes-ca.crt

vault auth enable -path=kubernetes-nodes jwt
vault write auth/kubernetes-nodes/config jwt_validation_pubkeys=@"$PUBKEYS" bound_issuer="$ISSUER"
vault write auth/kubernetes-nodes/role/calico-node @auth-role.json
vault policy write calico-per-node vault-policy.hcl

# The name in the certificate is the name in the token: the alias of the login, under this mount only.
accessor=$(vault auth list -format=json | jq -r '."kubernetes-nodes/".accessor')
sed "s/ACCESSOR/$accessor/" pki-role.json | vault write pki-calico/roles/calico-per-node -
echo "nodes-ca.crt: put it beside the proxies' other CAs, as \`nodes\` in trusted-ca-file" >&2
