package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// A socket stays in the network namespace it was made in, wherever the process that holds it goes. So `listen` binds
// a port of the machine and becomes the command that makes the node; `forward`, started in the node, accepts there
// and dials inside. The machine gets a port and no rule, route or device, and the port ends with the node.

// listenerEnv names the environment variable that carries the number of the inherited descriptor.
const listenerEnv = "SLUICE_FORWARD_FD"

// listen HOST:PORT FILE COMMAND... binds (port 0: a free one), writes the address to FILE and becomes COMMAND.
func listen(args []string) error {
	if len(args) < 3 {
		return errors.New("usage: kit listen HOST:PORT FILE COMMAND...")
	}
	address, err := net.ResolveTCPAddr("tcp4", args[0])
	if err != nil {
		return err
	}
	// Plain system calls: the descriptor must be inherited, and Go's own are closed by exec.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return fmt.Errorf("SO_REUSEADDR: %w", err)
	}
	where := &syscall.SockaddrInet4{Port: address.Port}
	copy(where.Addr[:], address.IP.To4())
	if err := syscall.Bind(fd, where); err != nil {
		return fmt.Errorf("bind %s: %w", args[0], err)
	}
	if err := syscall.Listen(fd, 512); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("getsockname: %w", err)
	}
	chosen := net.JoinHostPort(address.IP.String(), strconv.Itoa(bound.(*syscall.SockaddrInet4).Port))
	if err := os.WriteFile(args[1], []byte(chosen+"\n"), 0o644); err != nil {
		return err
	}
	program, err := exec.LookPath(args[2])
	if err != nil {
		return err
	}
	return syscall.Exec(program, args[2:], append(os.Environ(), fmt.Sprintf("%s=%d", listenerEnv, fd)))
}

// forward HOST:PORT passes every connection of the inherited listener on to HOST:PORT.
func forward(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: kit forward HOST:PORT")
	}
	fd, err := strconv.Atoi(os.Getenv(listenerEnv))
	if err != nil {
		return fmt.Errorf("%s is not a descriptor: start it below `kit listen`: %w", listenerEnv, err)
	}
	file := os.NewFile(uintptr(fd), "listener")
	listener, err := net.FileListener(file)
	if err != nil {
		return err
	}
	file.Close() // FileListener made a copy
	for {
		client, err := listener.Accept()
		if err != nil {
			// Out of descriptors, or the client is gone already: neither ends the way into the cluster.
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go pass(client, args[0])
	}
}

// pass copies both ways until both ends have said that they are done.
func pass(client net.Conn, to string) {
	defer client.Close()
	server, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	one := func(dst, src net.Conn) {
		defer both.Done()
		io.Copy(dst, src)
		dst.(*net.TCPConn).CloseWrite() // the other way may go on
	}
	both.Add(2)
	go one(server, client)
	go one(client, server)
	both.Wait()
}
