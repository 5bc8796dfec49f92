package testcluster

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/ssh"
)

// SSHServer is an SSH server on this machine whose sessions are in the cluster's node, as root.
// It takes one key, which the ssh of [SSHServer.Env] has.
type SSHServer struct {
	// Env gives a command that ssh in its PATH.
	Env []string

	cluster  *Cluster
	listener net.Listener
	config   *ssh.ServerConfig
	handlers sync.WaitGroup
}

// SSHHost is the name that ssh knows the server by.
const SSHHost = "the-node"

// ServeSSH starts a server; dir is for its keys and ssh's configuration.
func (c *Cluster) ServeSSH(dir string) (*SSHServer, error) {
	program, err := exec.LookPath("ssh")
	if err != nil {
		return nil, fmt.Errorf("an SSH client: %w", err)
	}
	_, hostKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(hostKey)
	if err != nil {
		return nil, err
	}
	_, clientKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	client, err := ssh.NewSignerFromKey(clientKey)
	if err != nil {
		return nil, err
	}
	s := &SSHServer{cluster: c, config: &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if string(key.Marshal()) != string(client.PublicKey().Marshal()) {
				return nil, errors.New("another key")
			}
			return &ssh.Permissions{}, nil
		},
	}}
	s.config.AddHostKey(signer)
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if err := s.configure(dir, program, clientKey, signer.PublicKey()); err != nil {
		return nil, errors.Join(err, s.listener.Close())
	}
	s.handlers.Go(s.accept) // ends with Close
	return s, nil
}

// configure writes an ssh that finds the server and trusts it.
func (s *SSHServer) configure(dir, program string, key ed25519.PrivateKey, host ssh.PublicKey) error {
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return err
	}
	ip, port, err := net.SplitHostPort(s.listener.Addr().String())
	if err != nil {
		return err
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	bin := path("bin")
	for _, f := range []struct {
		path, text string
		mode       os.FileMode
	}{
		{path("key"), string(pem.EncodeToMemory(block)), 0o600},
		{path("known"), SSHHost + " " + string(ssh.MarshalAuthorizedKey(host)), 0o600},
		{path("config"), fmt.Sprintf("Host %s\nHostName %s\nPort %s\nUser root\nIdentityFile %s\nIdentitiesOnly yes\nHostKeyAlias %s\nUserKnownHostsFile %s\nStrictHostKeyChecking yes\n",
			SSHHost, ip, port, path("key"), SSHHost, path("known")), 0o600},
		{filepath.Join(bin, "ssh"), fmt.Sprintf("#!/bin/sh\nexec %s -F %s \"$@\"\n", program, path("config")), 0o700},
	} {
		if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(f.path, []byte(f.text), f.mode); err != nil {
			return err
		}
	}
	s.Env = []string{"PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH")}
	return nil
}

// Close ends the server when its commands have ended.
func (s *SSHServer) Close() error {
	err := s.listener.Close()
	s.handlers.Wait()
	return err
}

func (s *SSHServer) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.handlers.Go(func() { s.serve(conn) }) // ends with the client
	}
}

func (s *SSHServer) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests) // ends with the connection
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var commands sync.WaitGroup
	defer commands.Wait()
	defer cancel()
	for c := range channels {
		if c.ChannelType() != "session" {
			_ = c.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		commands.Go(func() { s.session(ctx, channel, requests) }) // ends with ctx
	}
}

// session runs the one command of a session.
func (s *SSHServer) session(ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request) {
	defer func() { _ = channel.Close() }()
	for r := range requests {
		var command struct{ Line string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &command) != nil {
			_ = r.Reply(false, nil)
			continue
		}
		_ = r.Reply(true, nil)
		cmd := exec.CommandContext(ctx, s.cluster.tool, "exec", "--name", s.cluster.named, "--", "sh", "-c", command.Line) //nolint:gosec // a test's
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return
		}
		cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
		if err := cmd.Start(); err != nil {
			return
		}
		go func() { // ends with the channel
			_, _ = io.Copy(stdin, channel)
			_ = stdin.Close()
		}()
		_ = cmd.Wait()
		code := uint32(max(cmd.ProcessState.ExitCode(), 0)) //nolint:gosec // 0 to 255
		if cmd.ProcessState.ExitCode() < 0 {
			code = 255
		}
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
		return
	}
}
