//go:build tools

// Package tools pins consul-template, whose templates are those of Vault's agent.
package tools

import _ "github.com/hashicorp/consul-template"
