// Command kit is the small programs that a test cluster needs and neither Kubernetes nor Debian has:
// the process that holds a pod's namespaces, the way from the machine into the node, and both ends of a check.
//
// It must not know anything of the product: the product's own tests bring their own client and application.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// programs maps the first argument to what it runs, with the arguments after it. Without an argument it is `pause`:
// the entrypoint of a sandbox image is called without any.
var programs = map[string]func(args []string) error{
	"pause":   pause,
	"listen":  listen,
	"forward": forward,
	"serve":   serve,
	"get":     get,
}

func main() {
	args := os.Args[1:]
	if len(args) == 0 {
		args = []string{"pause"}
	}
	if run, found := programs[args[0]]; found {
		if err := run(args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "kit %s: %v\n", args[0], err)
			os.Exit(1)
		}
		return
	}
	names := make([]string, 0, len(programs))
	for name := range programs {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Fprintf(os.Stderr, "usage: kit %s\n", strings.Join(names, "|"))
	os.Exit(2)
}
