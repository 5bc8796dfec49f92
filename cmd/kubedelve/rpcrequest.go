package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/kubedelve/kubedelve/buildflags"
)

// rpcDetach ends Delve, and with the member Kill the program as well.
const rpcDetach = "RPCServer.Detach"

// rpcRequest is a message of a JSON-RPC client.
type rpcRequest struct {
	message []byte
	method  string
	id      string // as it is written; "null": none
}

// readRequest reads the next message.
func readRequest(messages *json.Decoder) (q rpcRequest, err error) {
	var message json.RawMessage
	if err := messages.Decode(&message); err != nil {
		return q, err
	}
	var head struct {
		Method string          `json:"method"`
		ID     json.RawMessage `json:"id"`
	}
	if err := json.Unmarshal(message, &head); err != nil {
		return q, fmt.Errorf("a JSON-RPC client sends no request: %w", err)
	}
	q = rpcRequest{append(message, '\n'), head.Method, string(head.ID)}
	if q.id == "" {
		q.id = "null"
	}
	return q, nil
}

// rename gives the source files in the request the names that they have in the binary.
// A debug build has the names of this machine, as a folder was entered; so there are
// rules only where a folder has two, through symbolic links. Both are local, so the
// answers stay as they are.
func (q *rpcRequest) rename(rules []buildflags.PathRule) error {
	var inside, member string // where the name is
	switch q.method {
	case "RPCServer.CreateBreakpoint", "RPCServer.AmendBreakpoint":
		inside, member = "breakpoint", "file"
	case "RPCServer.FindLocation":
		member = "loc" // FILE:LINE, or something else
	default:
		return nil
	}
	var whole map[string]any
	decoder := json.NewDecoder(bytes.NewReader(q.message))
	decoder.UseNumber()
	if err := decoder.Decode(&whole); err != nil {
		return fmt.Errorf("a JSON-RPC client sends %s: %w", q.method, err)
	}
	params, _ := whole["params"].([]any)
	changed := false
	for _, param := range params {
		object, _ := param.(map[string]any)
		if inside != "" {
			object, _ = object[foldedKey(object, inside)].(map[string]any)
		}
		key := foldedKey(object, member)
		name, _ := object[key].(string)
		if renamed := nameInBinary(name, rules); renamed != name {
			object[key], changed = renamed, true
		}
	}
	if !changed {
		return nil
	}
	message, err := json.Marshal(whole)
	if err != nil {
		return fmt.Errorf("a JSON-RPC client sends %s: %w", q.method, err)
	}
	q.message = append(message, '\n')
	return nil
}

// foldedKey is the key of an object that Delve, as package encoding/json does, takes
// for the name, which is in lower case.
func foldedKey(object map[string]any, name string) string {
	for key := range object {
		if strings.EqualFold(key, name) {
			return key
		}
	}
	return name
}

// nameInBinary is what the binary calls a file of this machine, or something in it.
func nameInBinary(name string, rules []buildflags.PathRule) string {
	for _, r := range rules {
		if rest, ok := strings.CutPrefix(name, r.Local); ok && (rest == "" || rest[0] == filepath.Separator) {
			return r.Remote + rest
		}
	}
	return name
}
