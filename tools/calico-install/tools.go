//go:build tools

// Package tools pins the program of the container install-cni, of the same Calico as ../calico, whose modules lack what it needs.
package tools

import _ "github.com/projectcalico/calico/cni-plugin/cmd/install"
