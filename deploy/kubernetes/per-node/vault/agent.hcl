# The agent in calico-node's pod. VAULT_ADDR comes from the pod; with a CA of your own set `ca_cert` in a `vault` block.
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
  # kubelet starts the side-car again, and it logs in anew.
  exit_on_retry_failure = true
}

# Each template issues one certificate and keeps all of it in its destination, where pkiCert looks whether it is still good; the files that
# Calico reads are written by the template itself. Two templates for key and certificate would issue two that do not fit.
# 0600 and not 0400: without CAP_DAC_OVERRIDE root itself may not write a file again that its owner may not write.
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
