package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/klog/v2"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/internal/version"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

func newRoot(name string) *cobra.Command {
	g := &global{kube: kubeFlags()}
	cmd := &cobra.Command{
		Use:   name,
		Short: "Debug Go programs that run on Kubernetes",
		Long: `kubedelve puts a breakpoint in a Go program that runs on Kubernetes.

It builds the program for debugging, runs it in a pod of the workload in the
original's place, starts Delve there, and gives your editor the connection. When
you stop, the cluster is as it was.`,
		Example: fmt.Sprintf(`  # debug the program ./cmd/web in the place of deploy/web, for any editor
  %[1]s debug deploy/web --program ./cmd/web

  # the same for a program on this machine
  %[1]s debug local --program ./cmd/web -- --port 8080

  # what runs, and put everything back
  %[1]s status
  %[1]s restore --all`, name),
		SilenceErrors: true, SilenceUsage: true,
		Version: version.String(),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("there is no command %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRun: func(*cobra.Command, []string) {
			if g.logLevel != "debug" {
				// client-go's own log; what matters of it comes as errors as well.
				klog.SetLogger(logr.Discard())
			}
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	g.kube.AddFlags(cmd.PersistentFlags())
	cmd.PersistentFlags().StringVar(&g.logLevel, "log-level", "warn", "what is logged: debug, info, warn or error")
	cmd.PersistentFlags().StringVar(&g.logFile, "log", "", "a file for the log, which is appended to, instead of standard error")
	cmd.AddCommand(newDebug(g), newAttach(g), newDAP(g), newStatus(g), newRestore(g), newDoctor(g), newInit(g), newTargets(g), newContexts(g),
		newNamespaces(g), newPrograms(g), newInspect(g), newVersion())
	markUsage(cmd)
	completeGlobal(cmd, g)
	return cmd
}

// markUsage makes every complaint about flags and arguments a [usageError].
func markUsage(cmd *cobra.Command) {
	help := cmd.CommandPath() + " --help"
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &usageError{err, c.CommandPath() + " --help"}
	})
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return &usageError{err, help}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		markUsage(sub)
	}
}

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), cmd.CommandPath() + " --help"}
}

// global is what all commands share.
type global struct {
	kube     *genericclioptions.ConfigFlags
	logLevel string
	logFile  string
}

// kubeFlags are kubectl's own, as far as they make sense here.
func kubeFlags() *genericclioptions.ConfigFlags {
	flags := genericclioptions.NewConfigFlags(true).WithWarningPrinter(genericclioptions.IOStreams{ErrOut: os.Stderr})
	flags.CacheDir = nil // no discovery is done
	flags.DisableCompression = nil
	return flags
}

// cluster makes the clients for what the flags and the kubeconfig say.
func (g *global) cluster() (*kubelaunch.Cluster, error) {
	return clusterOf(g.kube)
}

func clusterOf(flags *genericclioptions.ConfigFlags) (*kubelaunch.Cluster, error) {
	loader := flags.ToRawKubeConfigLoader()
	raw, err := loader.RawConfig()
	if err == nil && len(raw.Contexts) == 0 && (flags.APIServer == nil || *flags.APIServer == "") && os.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		return nil, errors.New("no cluster is configured: set KUBECONFIG to a file that has one, or name it with --kubeconfig")
	}
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return kubelaunch.NewCluster(config, currentContext(flags, &raw), namespace)
}

// currentContext is the name of the context that the flags choose, or the kubeconfig.
func currentContext(flags *genericclioptions.ConfigFlags, config *clientcmdapi.Config) string {
	if flags.Context != nil && *flags.Context != "" {
		return *flags.Context
	}
	return config.CurrentContext
}

// logger makes the logger that the flags ask for. Its file is closed with the
// process.
func (g *global) logger(cmd *cobra.Command) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(g.logLevel)); err != nil {
		return nil, usagef(cmd, "--log-level %q: choose debug, info, warn or error", g.logLevel)
	}
	w := cmd.ErrOrStderr()
	if g.logFile != "" {
		f, err := os.OpenFile(g.logFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("--log: %w", err)
		}
		w = f
	}
	handler := slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
	if level <= slog.LevelDebug {
		klog.SetLogger(logr.FromSlogHandler(handler)) // client-go's own
	}
	return slog.New(handler), nil
}

// explain makes one sentence of the errors that client-go words for programmers.
func explain(err error) string {
	var netErr *url.Error
	if errors.As(err, &netErr) {
		if u, parseErr := url.Parse(netErr.URL); parseErr == nil {
			return fmt.Sprintf("the cluster at %s does not answer (%v); is it up, and is this the right --context?", u.Host, netErr.Err)
		}
	}
	var config *buildflags.ConfigError
	if errors.As(err, &config) { // it names the attribute; here that is a flag
		return strings.Replace(config.Error(), "build."+config.Attr, "--"+strings.ToLower(config.Attr), 1)
	}
	if apierrors.IsUnauthorized(err) {
		return fmt.Sprintf("the cluster does not know you: %v; log in again", err)
	}
	return err.Error()
}
