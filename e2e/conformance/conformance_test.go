// Package conformance is the Gateway API's own suite, as a program: `go test -c`. What it is told are its flags.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) { conformance.RunConformance(t) }
