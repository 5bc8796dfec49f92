package kubelaunch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/internal/agentapi"
	"github.com/kubedelve/kubedelve/internal/feed"
	"github.com/kubedelve/kubedelve/internal/remoteshell"
	"github.com/kubedelve/kubedelve/internal/tunnel"
)

// ResolveNodeSSH finds a target of the kind [KindNode] without a cluster. agent returns the
// agent's program for a platform.
func ResolveNodeSSH(ctx context.Context, via NodeVia, target Target, agent func(buildflags.Platform) (string, error)) (*NodePlacement, error) {
	if target.IsCalls() {
		return nil, fmt.Errorf("%s: calls are debugged through the cluster, not by ssh; leave out --node-via (target.nodeVia in a launch configuration)", target)
	}
	if target.Kind != KindNode {
		return nil, fmt.Errorf("target %s is not on a node", target)
	}
	out, err := remoteshell.Host{Name: via.ssh}.Run(ctx, nil, "sh", "-c", aboutScript, "sh", target.program())
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < 2 {
		return nil, fmt.Errorf("ssh %s: uname answers %q", via.ssh, out)
	}
	p := &NodePlacement{Target: target, Via: via}
	p.Platform = buildflags.Platform{OS: strings.ToLower(lines[0]), Arch: cmp.Or(map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[lines[1]], lines[1])}
	if len(lines) > 2 && slices.Contains(ofKubernetes, target.program()) {
		if version := strings.TrimPrefix(lines[2], "Kubernetes "); releasePattern.MatchString(version) {
			p.version = version
		}
	}
	p.agent, err = agent(p.Platform)
	return p, err
}

// aboutScript tells what a node is, and which version a program of Kubernetes is that runs
// there. A program of the node's own says it itself. One in a container is not executed
// outside of it; its image's tag tells, in the manifest of a static pod as kubeadm writes
// them. Without either, the kubelet's version is as near as can be.
const aboutScript = `uname -s; uname -m
for p in /proc/[0-9]*; do
	[ "$(readlink "$p/ns/mnt")" = "$(readlink /proc/1/ns/mnt)" ] || continue
	exe=$(readlink "$p/exe")
	case $exe in */"$1") "$exe" --version && exit;; esac
done 2> /dev/null
sed -n "s#^ *image: .*/$1:\(v[0-9][^@ ]*\).*#\1#p" /etc/kubernetes/manifests/*.yaml 2> /dev/null
kubelet --version 2> /dev/null
true`

// sshDoor leads into a node by ssh. The session's folder on the node is its journal: it says
// how the service ran, and holds what a restore needs.
type sshDoor struct {
	host    remoteshell.Host
	target  Target
	options Options
	agent   string // the program, on this machine

	id     identity
	config []byte // the agent's, JSON, one line
	dir    string // the session's folder on the node; empty: nobody has come there
}

// sessionBases are where the agent makes folders of sessions (package nodeservice).
const sessionBases = "/var/lib/kubedelve /run/kubedelve /opt/kubedelve /home/kubernetes/kubedelve"

// arriveScript brings the agent to a node and has it start a helper. The first line that it
// reads is the configuration, which is in no argument since it holds a key.
const arriveScript = `set -e
umask 077
IFS= read -r config
for d in ` + sessionBases + `; do
	mkdir -p "$d" 2> /dev/null || continue
	f=$d/arriving-$1
	trap 'rm -f "$f"; rmdir "$d" 2> /dev/null || true' EXIT
	if printf '#!/bin/sh\n' > "$f" && chmod 700 "$f" && "$f"; then
		cat > "$f"
		printf '%s' "$config" | "$f" arrive
		exit
	fi 2> /dev/null
	rm -f "$f"; rmdir "$d" 2> /dev/null || true
done
echo "there is no folder from which programs can be run: ` + sessionBases + `" >&2
exit 1
`

// claim implements [nodeDoor]. Who has the service's place already is seen on the node.
func (d *sshDoor) claim(context.Context) (string, error) {
	var err error
	if d.id, err = newIdentity(); err != nil {
		return "", err
	}
	o := d.options
	kept, err := json.Marshal(record{
		Version: journalVersion, Session: d.id.session, Target: d.target.String(), Container: d.target.Service,
		Owner: o.Owner, Created: time.Now().UTC().Truncate(time.Second), Client: d.id.client, Agent: d.id.agentPin,
	})
	if err == nil {
		d.config, err = json.Marshal(agentapi.Config{
			Session: d.id.session, Identity: d.id.agent, ClientPin: d.id.clientPin, Service: d.target.Service, Record: kept,
			Grace: agentapi.Duration(o.Grace), TTL: agentapi.Duration(o.TTL), Stop: agentapi.Duration(nodeStop),
		})
	}
	if err != nil {
		return "", fmt.Errorf("agent configuration: %w", err)
	}
	return d.id.session, nil
}

// dial implements [nodeDoor].
func (d *sshDoor) dial(ctx context.Context, stage func(string)) (*agentapi.Client, error) {
	if d.dir == "" {
		stage("starting a helper on node " + d.target.Name + " by ssh " + d.host.Name)
		if err := d.arrive(ctx); err != nil {
			return nil, &helperError{err}
		}
	}
	client, err := d.connect(ctx)
	if err == nil || ctx.Err() != nil {
		return client, err
	}
	there, lookErr := d.look(ctx)
	switch {
	case lookErr != nil:
		return nil, lookErr
	case there == "":
		return nil, &LostError{"the original is back on the node: somebody has run kubedelve restore, or the agent has ended"}
	}
	// The helper may be gone, and is needed until the agent has the service's place.
	if _, err := d.host.Run(ctx, bytes.NewReader(d.config), path.Join(d.dir, agentProgram), "arrive"); err != nil {
		return nil, err
	}
	return d.connect(ctx)
}

// agentProgram is the agent's name in a session's folder (agent.Executable).
const agentProgram = "kubedelve-agent"

// arrive brings a helper to the node.
func (d *sshDoor) arrive(ctx context.Context) error {
	program, err := os.Open(d.agent)
	if err != nil {
		return fmt.Errorf("the agent for the node: %w", err)
	}
	defer func() { _ = program.Close() }()
	in := io.MultiReader(bytes.NewReader(append(d.config, '\n')), program)
	out, err := d.host.Run(ctx, in, "sh", "-c", arriveScript, "sh", d.id.session)
	d.dir = strings.TrimSpace(string(out))
	return err
}

// look returns the session's folder on the node, if it is there.
func (d *sshDoor) look(ctx context.Context) (string, error) {
	out, err := d.host.Run(ctx, nil, "sh", "-c", `for d in `+sessionBases+`; do if [ -d "$d/$1" ]; then echo "$d/$1"; fi; done`, "sh", d.id.session)
	return strings.TrimSpace(string(out)), err
}

// connect is one try to reach the agent's socket.
func (d *sshDoor) connect(ctx context.Context) (*agentapi.Client, error) {
	stream, err := d.host.Open(path.Join(d.dir, agentProgram), "connect", "--dir", d.dir)
	if err != nil {
		return nil, err
	}
	if stream, err = tunnel.UpgradeStream(stream); err != nil {
		return nil, err
	}
	session, err := tunnel.Client(ctx, stream, d.id.client, d.id.agentPin)
	if err != nil {
		return nil, err
	}
	return agentapi.NewClient(session, d.options.Owner), nil
}

func (d *sshDoor) way() string { return "ssh" }

// note implements [nodeDoor]: the agent writes the node's journal itself.
func (d *sshDoor) note(context.Context) error { return nil }

// holdLease implements [nodeDoor]: Leases are in the cluster.
func (d *sshDoor) holdLease(context.Context, string, *feed.Feed[Event], func(context.Context) error, func(context.Context) error) *leaseHold {
	return nil
}

// undo implements [nodeDoor]. It may be run again after any failure, from any machine: for as
// long as there is a folder there is something to undo, and the folder goes last.
func (d *sshDoor) undo(ctx context.Context, progress func(string)) error {
	progress("restoring " + d.target.Service + " on node " + d.target.Name)
	ctx, cancel := context.WithTimeoutCause(ctx, undoTimeout, fmt.Errorf("the original did not come back in %v", undoTimeout))
	defer cancel()
	retry := time.NewTicker(pollInterval)
	defer retry.Stop()
	var last error
	for {
		var err error
		if d.dir, err = d.look(ctx); err == nil && d.dir == "" {
			return nil
		}
		if err == nil {
			err = d.askRestore(ctx)
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("restoring %s: %w; last: %w", d.target, context.Cause(ctx), cmp.Or(last, ctx.Err()))
		case <-retry.C:
		}
	}
}

// askRestore asks whoever is there, and sees to it that somebody is.
func (d *sshDoor) askRestore(ctx context.Context) error {
	client, err := d.connect(ctx)
	if err == nil {
		err = client.Restore(ctx)
		_ = client.Close()
		return err
	}
	_, arriveErr := d.host.Run(ctx, bytes.NewReader(d.config), path.Join(d.dir, agentProgram), "arrive")
	var failed *remoteshell.Error
	if errors.As(arriveErr, &failed) && d.agent != "" {
		arriveErr = d.arrive(ctx) // the folder has no agent yet
	}
	return errors.Join(err, arriveErr)
}

// NodeSessions lists the sessions on a node that have come there by ssh.
func NodeSessions(ctx context.Context, via NodeVia) ([]Info, error) {
	host := remoteshell.Host{Name: via.ssh}
	out, err := host.Run(ctx, nil, "sh", "-c", `for d in `+sessionBases+`; do for f in "$d"/*/agent.json; do if [ -e "$f" ]; then cat "$f"; fi; done; done`)
	if err != nil {
		return nil, err
	}
	var infos []Info
	for list := json.NewDecoder(bytes.NewReader(out)); ; {
		var raw json.RawMessage
		if err := list.Decode(&raw); errors.Is(err, io.EOF) {
			return infos, nil
		} else if err != nil {
			return nil, fmt.Errorf("the sessions on %s: %w", via.ssh, err)
		}
		door, r, err := readDoor(host, raw)
		if err != nil {
			return nil, fmt.Errorf("the sessions on %s: %w", via.ssh, err)
		}
		if door != nil {
			infos = append(infos, Info{ID: r.Session, Target: r.Target, Container: r.Container, Owner: r.Owner, Created: r.Created, door: door})
		}
	}
}

// readDoor returns the door that a session of another process came by, or nil if it came
// through a pod.
func readDoor(host remoteshell.Host, config []byte) (*sshDoor, *record, error) {
	var c agentapi.Config
	if err := json.Unmarshal(config, &c); err != nil || c.Record == nil {
		return nil, nil, err
	}
	r := &record{}
	if err := json.Unmarshal(c.Record, r); err != nil {
		return nil, nil, err
	}
	target, err := ParseTarget(r.Target)
	if err != nil {
		return nil, nil, err
	}
	return &sshDoor{
		host: host, target: target, options: Options{Owner: owner()}, config: config,
		id: identity{session: r.Session, client: r.Client, agentPin: r.Agent},
	}, r, nil
}
