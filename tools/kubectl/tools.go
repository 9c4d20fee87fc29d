//go:build tools

// Package tools pins the kubectl that the tutorial's test runs.
package tools

import _ "k8s.io/kubernetes/cmd/kubectl"
