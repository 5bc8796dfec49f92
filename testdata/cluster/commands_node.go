package main

import (
	"errors"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kubedelve/kubedelve/testdata/cluster/internal/cluster"
)

func loadCommand(o *options) *cobra.Command {
	var l cluster.LoadOptions
	cmd := &cobra.Command{
		Use:   "load --ref IMAGE SRC[:DST] ...",
		Short: "Make an image of files and give it to a cluster's node",
		Long: `Make an image with one layer of files and import it into the containerd of a
cluster's node. SRC is a file of this machine; DST is its absolute path in the image
and is /NAME of SRC if left out. Files get the mode 0755, and /tmp is there for all.

The reference is complete, like test.local/web:1, and pods name it so; with a tag
other than latest the kubelet does not try to pull it.`,
		Example: `  cluster load --ref test.local/web:1 --user 1000 --entrypoint /web ./web`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := o.manager(cmd)
			if err != nil {
				return err
			}
			l.Name, l.Files = o.name, args
			err = m.Load(cmd.Context(), l)
			if errors.Is(err, cluster.ErrUsage) {
				return usageError{err}
			}
			return err
		},
	}
	o.addName(cmd)
	cmd.Flags().StringVar(&l.Ref, "ref", "", "name of the image, with host and tag (required)")
	cmd.Flags().StringArrayVar(&l.Entrypoint, "entrypoint", nil, "a word of the entrypoint (repeat); default: the first file")
	cmd.Flags().StringArrayVar(&l.Cmd, "cmd", nil, "a word of the default arguments (repeat)")
	cmd.Flags().StringArrayVar(&l.Env, "env", nil, "NAME=VALUE (repeat)")
	cmd.Flags().StringVar(&l.User, "user", "", "numeric user, UID or UID:GID; default: root")
	return cmd
}

func execCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "exec -- COMMAND [ARG...]",
		Short:   "Run a command in the namespaces of a cluster's node",
		Example: `  cluster exec --name dev -- systemctl status kubelet`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := o.manager(cmd)
			if err != nil {
				return err
			}
			return runInNode(cmd, m, o.name, args)
		},
	}
	o.addName(cmd)
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func logsCommand(o *options) *cobra.Command {
	var l cluster.LogOptions
	cmd := &cobra.Command{
		Use:   "logs [WHAT]",
		Short: "Print a log of a cluster: kubelet (default), containerd, kubeadm, console or another unit",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := o.manager(cmd)
			if err != nil {
				return err
			}
			l.Name, l.What = o.name, "kubelet"
			if len(args) > 0 {
				l.What = args[0]
			}
			path, argv, err := m.LogSource(l)
			if err != nil {
				return err
			}
			if argv != nil {
				return runInNode(cmd, m, o.name, argv)
			}
			args = []string{"-n", "+1"}
			if l.Follow {
				args = append(args, "-f")
			}
			tail := exec.CommandContext(cmd.Context(), "tail", append(args, path)...)
			tail.Stdout, tail.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return tail.Run()
		},
	}
	o.addName(cmd)
	cmd.Flags().BoolVarP(&l.Follow, "follow", "f", false, "go on with what comes")
	return cmd
}

// runInNode runs a command in the node with the streams of this program.
func runInNode(cmd *cobra.Command, m *cluster.Manager, name string, argv []string) error {
	c, err := m.Command(cmd.Context(), name, argv...)
	if err != nil {
		return err
	}
	c.Stdin, c.Stdout, c.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	err = c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return exitCode(128 + int(ws.Signal()))
		}
		return exitCode(exit.ExitCode())
	}
	return err
}
