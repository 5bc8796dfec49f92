package main

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// newTable is for a command's answer to people. It is to be flushed.
func newTable(cmd *cobra.Command, header ...string) *tabwriter.Writer {
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 3, ' ', 0)
	writeRow(table, header...)
	return table
}

func writeRow(table *tabwriter.Writer, cells ...string) {
	_, _ = fmt.Fprintln(table, strings.Join(cells, "\t")) // Flush tells
}

func newTargets(g *global) *cobra.Command {
	var every bool
	var output string
	cmd := &cobra.Command{
		Use:   "targets",
		Short: "List what can be debugged in the cluster",
		Long: `List what can be debugged: workloads of the namespace with their containers, and
nodes with the services that the cluster knows of. Any other service of a node can
be a target as well: node/NAME:SERVICE. What you may not list is left out, and a
note says so.`,
		Example: `  kubedelve targets -n store
  kubedelve targets -A -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster, err := g.cluster()
			if err != nil {
				return err
			}
			if every {
				cluster.Namespace = ""
			}
			inventory, err := kubelaunch.TakeInventory(cmd.Context(), cluster)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return writeJSON(cmd, inventory)
			}
			return writeInventory(cmd, inventory)
		},
	}
	cmd.Flags().BoolVarP(&every, "all-namespaces", "A", false, "look in all namespaces")
	addOutput(cmd, &output)
	return cmd
}

func writeInventory(cmd *cobra.Command, inventory *kubelaunch.Inventory) error {
	for _, note := range inventory.Notes {
		if _, err := fmt.Fprintln(cmd.ErrOrStderr(), note); err != nil {
			return err
		}
	}
	table := newTable(cmd, "TARGET", "NAMESPACE", "CONTAINER", "READY", "IMAGE OR VERSION")
	for _, w := range inventory.Workloads {
		for i, c := range w.Containers {
			row := []string{w.Target, w.Namespace, c.Name, fmt.Sprintf("%d/%d", w.Ready, w.Replicas), c.Image}
			if i > 0 {
				row[0], row[1], row[3] = "", "", ""
			}
			if !w.Debuggable {
				row[4] = "(not: " + w.Reason + ")"
			}
			writeRow(table, row...)
		}
	}
	for _, n := range inventory.Nodes {
		ready := "0/1"
		if n.Ready {
			ready = "1/1"
		}
		for _, c := range n.Components {
			version := c.Version
			if !n.Debuggable {
				version = "(not: " + n.Reason + ")"
			}
			writeRow(table, c.Target, "", "", ready, version)
		}
	}
	return table.Flush()
}

// contextInfo is a context of the kubeconfig.
type contextInfo struct {
	Name      string `json:"name"`
	Cluster   string `json:"cluster"`
	Server    string `json:"server"`
	User      string `json:"user"`
	Namespace string `json:"namespace"`
}

func newContexts(g *global) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "contexts",
		Short: "List the contexts of the kubeconfig",
		Long:  "List the contexts of the kubeconfig. No cluster is asked.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			current, contexts, err := g.contexts()
			if err != nil {
				return err
			}
			if output == formatJSON {
				return writeJSON(cmd, map[string]any{"current": current, "contexts": contexts})
			}
			table := newTable(cmd, "CURRENT", "NAME", "CLUSTER", "SERVER", "USER", "NAMESPACE")
			for _, c := range contexts {
				mark := ""
				if c.Name == current {
					mark = "*"
				}
				writeRow(table, mark, c.Name, c.Cluster, c.Server, c.User, c.Namespace)
			}
			return table.Flush()
		},
	}
	addOutput(cmd, &output)
	return cmd
}

// contexts reads the kubeconfig. current is the one that commands take.
func (g *global) contexts() (current string, contexts []contextInfo, err error) {
	config, err := g.kube.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return "", nil, fmt.Errorf("kubeconfig: %w", err)
	}
	contexts = []contextInfo{}
	for _, name := range slices.Sorted(maps.Keys(config.Contexts)) {
		c := config.Contexts[name]
		info := contextInfo{Name: name, Cluster: c.Cluster, User: c.AuthInfo, Namespace: cmp.Or(c.Namespace, "default")}
		if cluster := config.Clusters[c.Cluster]; cluster != nil {
			info.Server = cluster.Server
		}
		contexts = append(contexts, info)
	}
	return currentContext(g.kube, &config), contexts, nil
}

func newNamespaces(g *global) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "namespaces",
		Short: "List the namespaces of the cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster, err := g.cluster()
			if err != nil {
				return err
			}
			names, err := kubelaunch.Namespaces(cmd.Context(), cluster)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return writeJSON(cmd, map[string]any{"current": cluster.Namespace, "namespaces": names})
			}
			table := newTable(cmd, "CURRENT", "NAME")
			for _, name := range names {
				mark := ""
				if name == cluster.Namespace {
					mark = "*"
				}
				writeRow(table, mark, name)
			}
			return table.Flush()
		},
	}
	addOutput(cmd, &output)
	return cmd
}

func newPrograms(g *global) *cobra.Command {
	var output string
	var tags []string
	cmd := &cobra.Command{
		Use:   "programs [DIR]",
		Short: "List the Go programs that can be built here",
		Long: `List the main packages in a folder and below, of all modules there: what --program
and "program" in a launch configuration can name. No cluster is asked.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			log, err := g.logger(cmd)
			if err != nil {
				return err
			}
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			programs, err := buildflags.Programs(cmd.Context(), buildflags.Config{Dir: dir, Tags: tags}, log)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return writeJSON(cmd, map[string]any{"programs": programs})
			}
			table := newTable(cmd, "PROGRAM", "PACKAGE")
			for _, p := range programs {
				writeRow(table, programPath(dir, p.Dir), p.ImportPath)
			}
			return table.Flush()
		},
	}
	cmd.Flags().StringSliceVar(&tags, "tags", nil, "build tags")
	addOutput(cmd, &output)
	return cmd
}

// programPath is what a user in the folder dir would write for --program.
func programPath(dir, program string) string {
	base, err := filepath.Abs(dir)
	if err != nil {
		return program
	}
	rel, err := filepath.Rel(base, program)
	if err != nil || !filepath.IsLocal(rel) {
		return program
	}
	if rel == "." {
		return rel
	}
	return "." + string(filepath.Separator) + rel
}
