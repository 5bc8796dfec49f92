package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"

	"github.com/kubedelve/kubedelve/dapserver"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

type (
	logger    = *slog.Logger
	taskGroup = sync.WaitGroup
)

// serveDebuggers gives each connection the running session. DAP begins with the
// header Content-Length, Delve's JSON-RPC with a brace.
func serveDebuggers(ctx context.Context, l *launched, listener net.Listener, log logger, messages *messages) error {
	server := dapserver.New(dapserver.Config{Session: sharedSession{&dapSession{launched: l}}, Logger: log, Message: messages.message()})
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var connections taskGroup
	defer connections.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		connections.Go(func() { // ends with the connection or ctx
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer func() { stop(); _ = conn.Close() }()
			r := bufio.NewReader(conn)
			first, err := r.Peek(1)
			if err != nil {
				return
			}
			debugger := &peeked{Conn: conn, r: r}
			if first[0] == '{' {
				err = serveJSONRPC(ctx, l, debugger)
			} else {
				err = server.ServeConn(ctx, debugger)
			}
			if err != nil {
				log.Info("debugger", "from", conn.RemoteAddr().String(), "error", err)
			}
		})
	}
}

// peeked is a connection whose first bytes were read ahead.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// CloseWrite passes a half-close on.
func (p *peeked) CloseWrite() error {
	if c, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// serveJSONRPC passes a JSON-RPC client through to Delve.
func serveJSONRPC(ctx context.Context, l *launched, client *peeked) error {
	delve, err := l.session.Dial(ctx, kubelaunch.DialOptions{})
	if err != nil {
		text := err.Error()
		if kubelaunch.InUse(err) {
			text = err.Error() + "; disconnect there first"
		}
		return errors.Join(err, refuseJSONRPC(client, text))
	}
	return dapserver.Relay(ctx, client, delve)
}

// refuseJSONRPC answers each request (JSON-RPC 1.0, as package net/rpc/jsonrpc
// speaks it) with an error, until the client hangs up. The first one alone would not
// do: it is about the version, and Delve's clients don't look at its answer.
func refuseJSONRPC(client io.ReadWriter, text string) error {
	requests, answers := json.NewDecoder(io.LimitReader(client, 1<<20)), json.NewEncoder(client)
	for {
		var request struct {
			ID json.RawMessage `json:"id"`
		}
		if err := requests.Decode(&request); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := answers.Encode(map[string]any{"id": request.ID, "result": nil, "error": text}); err != nil {
			return err
		}
	}
}
