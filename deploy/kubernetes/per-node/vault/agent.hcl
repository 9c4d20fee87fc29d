# The agent in calico-node's pod. VAULT_ADDR comes from the pod; with your own CA set `ca_cert` in a `vault` block.
auto_auth {
  method "jwt" {
    mount_path = "auth/kubernetes-nodes"
    config = {
      path = "/var/run/secrets/vault/token"
      role = "calico-node"
      # kubelet owns the file and renews it.
      remove_jwt_after_reading = false
    }
  }
}

template_config {
  # kubelet restarts the side-car, and it logs in again.
  exit_on_retry_failure = true
}

# Each template issues one certificate and keeps all of it in its destination, where pkiCert checks whether it is still valid; the files that
# Calico reads are written by the template itself. Separate templates for key and certificate would issue two that do not match.
# 0600 and not 0400: without CAP_DAC_OVERRIDE even root cannot rewrite a file that its owner may not write.
template {
  source               = "/etc/vault-agent/node.ctmpl"
  destination          = "/certs/node/bundle.pem"
  perms                = "0600"
  error_on_missing_key = true
}

template {
  source               = "/etc/vault-agent/cni.ctmpl"
  destination          = "/certs/cni/bundle.pem"
  perms                = "0600"
  error_on_missing_key = true
}
