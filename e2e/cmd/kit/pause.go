package main

import (
	"os"
	"os/signal"
	"syscall"
)

// pause holds the namespaces of a pod until it is told to end. As process 1 of a pod that shares its process
// namespace it inherits orphans: ignoring SIGCHLD makes the kernel reap them.
func pause([]string) error {
	signal.Ignore(syscall.SIGCHLD)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	<-ended
	return nil
}
