package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubedelve/kubedelve/kubelaunch"
)

// sessionScope is where status and restore look.
type sessionScope struct {
	global  *global
	every   bool   // -A
	nodeVia string // --node-via
}

func (s *sessionScope) add(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&s.every, "all-namespaces", "A", false, "look in all namespaces")
}

// addNodeVia is for commands that also do with sessions of which no cluster knows.
func (s *sessionScope) addNodeVia(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.nodeVia, "node-via", "", "ssh:USER@HOST: look on a node for sessions that came there by ssh, and not in the cluster")
}

// list returns no cluster if it did not look in one.
func (s *sessionScope) list(ctx context.Context) ([]kubelaunch.Info, *kubelaunch.Cluster, error) {
	return s.listFor(ctx, "", func(string) {})
}

// listFor is list for who wants the session of that name.
func (s *sessionScope) listFor(ctx context.Context, name string, progress func(string)) ([]kubelaunch.Info, *kubelaunch.Cluster, error) {
	if s.nodeVia != "" {
		via, err := kubelaunch.ParseNodeVia(s.nodeVia)
		if err == nil && !via.SSH() {
			err = fmt.Errorf("--node-via %s: sessions that did not come by ssh are found in the cluster, without this flag", s.nodeVia)
		}
		if err != nil {
			return nil, nil, err
		}
		infos, err := kubelaunch.NodeSessions(ctx, via)
		return infos, nil, err
	}
	cluster, err := s.global.cluster()
	if err != nil {
		return nil, nil, err
	}
	if s.every {
		cluster.Namespace = ""
	}
	infos, err := kubelaunch.SessionsFor(ctx, cluster, name, progress)
	return infos, cluster, err
}

func newStatus(g *global) *cobra.Command {
	scope := &sessionScope{global: g}
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "List the debug sessions in the cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			infos, cluster, err := scope.list(cmd.Context())
			if err != nil {
				return err
			}
			if output == formatJSON {
				if infos == nil {
					infos = []kubelaunch.Info{}
				}
				return writeJSON(cmd, infos)
			}
			if len(infos) == 0 {
				where := "in any namespace"
				switch {
				case cluster == nil:
					where = "that came to this node by ssh"
				case !scope.every:
					where = "in namespace " + cluster.Namespace
				}
				_, err := fmt.Fprintf(cmd.ErrOrStderr(), "No sessions %s.\n", where)
				return err
			}
			table := newTable(cmd, "SESSION", "NAMESPACE", "TARGET", "CONTAINER", "POD", "OWNER", "AGE")
			for _, i := range infos {
				writeRow(table, i.ID, i.Namespace, i.Target, i.Container, i.Pod, i.Owner, time.Since(i.Created).Truncate(time.Second).String())
			}
			return table.Flush()
		},
	}
	scope.add(cmd)
	scope.addNodeVia(cmd)
	addOutput(cmd, &output)
	return cmd
}

func writeJSON(cmd *cobra.Command, v any) error {
	encoder := json.NewEncoder(cmd.OutOrStdout())
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// named picks a session by its id or target. A target without a session is as it
// should be: no error, and nothing to do.
func named(infos []kubelaunch.Info, name string) ([]kubelaunch.Info, error) {
	info, err := kubelaunch.Find(infos, name)
	if err == nil {
		return []kubelaunch.Info{info}, nil
	}
	if _, notTarget := kubelaunch.ParseTarget(name); notTarget == nil {
		return nil, nil
	}
	return nil, err
}

func newRestore(g *global) *cobra.Command {
	scope := &sessionScope{global: g}
	var all bool
	var output string
	cmd := &cobra.Command{
		Use:   "restore [SESSION | TARGET]",
		Short: "End sessions and put everything back",
		Long: `End a debug session, whoever began it, and put back what it changed. It works after
a crash, from any machine, and may be run again at any time.

Without an argument it ends the only session there is.`,
		Example: `  kubedelve restore deploy/web
  kubedelve restore 1a2b3c4d
  kubedelve restore --all`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all && len(args) > 0 {
				return usagef(cmd, "name a session or use --all, not both")
			}
			console := newConsole(output, cmd.OutOrStdout(), cmd.ErrOrStderr())
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			infos, _, err := scope.listFor(cmd.Context(), name, console.Stage)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				infos, err = named(infos, args[0])
				if err != nil {
					return err
				}
			}
			if len(infos) > 1 && !all {
				return fmt.Errorf("there are %d sessions: name one (see kubedelve status), or use --all", len(infos))
			}
			if len(infos) == 0 {
				console.Note("nothing to restore")
			}
			var errs []error
			for _, info := range infos {
				if err := kubelaunch.Restore(cmd.Context(), info, console.Stage); err != nil {
					errs = append(errs, fmt.Errorf("restoring %s: %w", info.Where(), err))
					continue
				}
				console.tell(event{Event: "restored", Session: info.ID, Text: "restored " + info.Where()})
			}
			return errors.Join(errs...)
		},
		ValidArgsFunction: completeSessions(scope),
	}
	cmd.Flags().BoolVar(&all, "all", false, "all sessions in the namespace (with -A: in the cluster)")
	scope.add(cmd)
	scope.addNodeVia(cmd)
	addOutput(cmd, &output)
	return cmd
}
