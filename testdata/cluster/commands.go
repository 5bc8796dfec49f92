package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/cache"
	"github.com/kubedelve/kubedelve/testdata/cluster/internal/cluster"
)

// A usageError is a wrong call of the program.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// An exitCode is that of a command which ran in a node.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// options are the flags of all commands.
type options struct {
	name        string
	source      string
	verbose     bool
	allPackages bool
}

func newCommand(stdin io.Reader, stdout, stderr io.Writer) *cobra.Command {
	var o options
	root := &cobra.Command{
		Use:   "cluster",
		Short: "Run a real one-node Kubernetes on this machine, from Go modules and distribution packages",
		Long: `Run a real one-node Kubernetes on this machine, from Go modules and distribution
packages: no registry, no container tool. A cluster is a node in namespaces of its
own; it reaches nothing outside this machine, and "down" leaves nothing behind.

Needs Linux with cgroups and overlay mounts, root, and Debian or Ubuntu packages.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(stderr)
			_ = cmd.Help()
			return usageError{errors.New("which command?")}
		},
	}
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	flags := root.PersistentFlags()
	flags.StringVar(&o.source, "source", sourceDir(), "folder with this program's sources")
	flags.BoolVarP(&o.verbose, "verbose", "v", false, "log details")
	flags.BoolVar(&o.allPackages, "all-packages", false, "take every program from packages and none from this host (for tests)")
	root.AddCommand(
		buildCommand(&o), upCommand(&o), downCommand(&o), statusCommand(&o),
		kubeconfigCommand(&o), loadCommand(&o), execCommand(&o), logsCommand(&o),
	)
	for _, c := range root.Commands() {
		args := c.Args
		c.Args = func(cmd *cobra.Command, a []string) error {
			if err := args(cmd, a); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	return root
}

// sourceDir is where this program was compiled from, or the current folder.
func sourceDir() string {
	if _, file, _, ok := runtime.Caller(0); ok {
		if dir := filepath.Dir(file); filepath.IsAbs(dir) {
			return dir
		}
	}
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	return dir
}

func (o *options) addName(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.name, "name", "default", "name of the cluster")
}

func (o *options) manager(cmd *cobra.Command) (*cluster.Manager, error) {
	dir, err := cache.Default()
	if err != nil {
		return nil, err
	}
	level := slog.LevelWarn
	if o.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	m := cluster.New(dir, o.source, cmd.ErrOrStderr(), log)
	m.AllPackages = o.allPackages
	return m, nil
}

func buildCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "build",
		Short: "Prepare everything that is kept between clusters",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := o.manager(cmd)
			if err != nil {
				return err
			}
			return m.Build(cmd.Context())
		},
	}
}

func upCommand(o *options) *cobra.Command {
	up := cluster.UpOptions{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster and print the path of its kubeconfig",
		Long: `Start a cluster and print the path of its kubeconfig as the only line on the
standard output. If the cluster runs already, that is all it does; if something is
left of a cluster that does not work, it is removed first.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if up.Flavour != cluster.Kubeadm && up.Flavour != cluster.Plain {
				return usageError{fmt.Errorf("--flavour is %s or %s, not %q", cluster.Kubeadm, cluster.Plain, up.Flavour)}
			}
			m, err := o.manager(cmd)
			if err != nil {
				return err
			}
			up.Name = o.name
			path, err := m.Up(cmd.Context(), up)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), path)
			return nil
		},
	}
	o.addName(cmd)
	cmd.Flags().StringVar(&up.Flavour, "flavour", cluster.Kubeadm, "kubeadm: systemd, units and static pods; plain: processes without systemd")
	cmd.Flags().BoolVar(&up.Keep, "keep", false, "leave a node that did not come up, to look into it")
	return cmd
}

func downCommand(o *options) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove a cluster, whatever state it is in",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := o.manager(cmd)
			if err != nil {
				return err
			}
			if all && cmd.Flags().Changed("name") {
				return usageError{errors.New("--name and --all exclude each other")}
			}
			if all {
				return m.DownAll(cmd.Context())
			}
			return m.Down(cmd.Context(), o.name)
		},
	}
	o.addName(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "remove all clusters of this user")
	return cmd
}

func statusCommand(o *options) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the clusters; with --name, fail if that one is not healthy",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("--output is text or json, not %q", output)}
			}
			m, err := o.manager(cmd)
			if err != nil {
				return err
			}
			one := cmd.Flags().Changed("name")
			var list []cluster.Status
			if one {
				s, err := m.Status(cmd.Context(), o.name)
				if err != nil {
					return err
				}
				list = append(list, s)
			} else if list, err = m.StatusAll(cmd.Context()); err != nil {
				return err
			}
			if err := printStatus(cmd.OutOrStdout(), list, output, one); err != nil {
				return err
			}
			if one && !list[0].Healthy {
				return exitCode(1)
			}
			return nil
		},
	}
	o.addName(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printStatus(w io.Writer, list []cluster.Status, output string, one bool) error {
	if output == "json" {
		var v any = list
		if one {
			v = list[0]
		}
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tFLAVOUR\tPHASE\tHEALTH\tSERVER\tPROBLEM")
	for _, s := range list {
		health := "ok"
		if !s.Healthy {
			health = "bad"
		}
		problem, _, _ := strings.Cut(s.Problem, "\n")
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Flavour, s.Phase, health, s.Server, problem)
	}
	return t.Flush()
}

func kubeconfigCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the path of a cluster's kubeconfig",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := o.manager(cmd)
			if err != nil {
				return err
			}
			path := m.Kubeconfig(o.name)
			if _, err := os.Stat(path); err != nil {
				return fmt.Errorf("there is no running cluster %s: %w", o.name, err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), path)
			return nil
		},
	}
	o.addName(cmd)
	return cmd
}
