package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// editorSetup is how an editor is told of kubedelve.
type editorSetup struct {
	file string // in the project; empty: it is the user's own configuration
	text func([]debugging) string
	how  string // what else is to be done, a sentence
	// connects says that it connects to a session that was begun in a terminal.
	connects bool
}

// debugging is one thing to debug.
type debugging struct {
	target, namespace, context string
	kubeconfig                 string // a file's absolute path, if it was named
	program                    string // as it is written in the project's folder: "./cmd/web"
}

func (d debugging) name() string { return "kubedelve: " + d.target }

// command is the command line that begins the session for editors that connect to one.
func (d debugging) command() string {
	words := []string{"kubedelve", "debug", d.target}
	if d.namespace != "" {
		words = append(words, "-n", d.namespace)
	}
	if d.context != "" {
		words = append(words, "--context", d.context)
	}
	if d.kubeconfig != "" {
		words = append(words, "--kubeconfig", d.kubeconfig)
	}
	return strings.Join(append(words, "--program", d.program), " ")
}

// below is where the program is, below the folder that the editor calls workspace.
func (d debugging) below(workspace string) string {
	if filepath.IsAbs(d.program) {
		return d.program
	}
	return path.Join(workspace, filepath.ToSlash(d.program))
}

func newInit(g *global) *cobra.Command {
	var program string
	var write bool
	cmd := &cobra.Command{
		Use:   "init EDITOR [TARGET] [flags]",
		Short: "Write the configuration of an editor",
		Long: `Print a configuration that works, for ` + strings.Join(editorNames(), ", ") + `: for
the programs in this folder and below, and the workloads in the namespace that are
named like them; or for TARGET and --program, and then no cluster is asked. --write
puts it into the project's file, if there is none yet. See docs/editors.md.`,
		Example: `  kubedelve init vscode -n store --write
  kubedelve init nvim deploy/web -n store --program ./cmd/web`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > 2 {
				return fmt.Errorf("name an editor: %s; and at most one target", strings.Join(editorNames(), ", "))
			}
			if _, ok := editors()[args[0]]; !ok {
				return fmt.Errorf("editor %q is not known; choose one of %s, or see docs/editors.md", args[0], strings.Join(editorNames(), ", "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			target := ""
			if len(args) == 2 {
				parsed, err := kubelaunch.ParseTarget(args[1])
				if err != nil {
					return usagef(cmd, "%w", err)
				}
				target = parsed.String() // as the list of workloads has it
			}
			found, err := g.debuggable(cmd, target, program)
			if err != nil {
				return err
			}
			return writeSetup(cmd, editors()[args[0]], found, write)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return editorNames(), cobra.ShellCompDirectiveNoFileComp
			}
			return completeTargets(g)(cmd, args[1:], toComplete)
		},
	}
	cmd.Flags().StringVar(&program, "program", "", "the main package of TARGET")
	cmd.Flags().BoolVar(&write, "write", false, "write the file in the project, if there is none")
	completePrograms(cmd)
	return cmd
}

func editorNames() []string { return slices.Sorted(maps.Keys(editors())) }

// debuggable finds what can be debugged of this folder's programs.
func (g *global) debuggable(cmd *cobra.Command, target, program string) ([]debugging, error) {
	template := debugging{target: target, context: *g.kube.Context, namespace: *g.kube.Namespace}
	if file := *g.kube.KubeConfig; file != "" {
		template.kubeconfig = absolute(file)
	}
	if target == kubelaunch.KindLocal && program == "" {
		program = "."
	}
	if target != "" && program != "" {
		template.program = programPath(".", absolute(program))
		return []debugging{template}, nil
	}
	programs, err := buildflags.Programs(cmd.Context(), buildflags.Config{}, nil)
	if err != nil {
		return nil, err
	}
	cluster, err := g.cluster()
	if err != nil {
		return nil, fmt.Errorf("%w; or name TARGET and --program", err)
	}
	inventory, err := kubelaunch.TakeInventory(cmd.Context(), cluster)
	if err != nil {
		return nil, err
	}
	template.namespace = cluster.Namespace
	var found []debugging
	var names []string
	for _, w := range inventory.Workloads {
		names = append(names, w.Target)
		if target != "" && w.Target != target {
			continue
		}
		for _, p := range programs {
			if path.Base(p.ImportPath) == w.Name && (program == "" || absolute(program) == p.Dir) {
				one := template
				one.target, one.program = w.Target, programPath(".", p.Dir)
				found = append(found, one)
			}
		}
	}
	if len(found) == 0 {
		var here []string
		for _, p := range programs {
			here = append(here, programPath(".", p.Dir))
		}
		return nil, fmt.Errorf("no program here is named like a workload in namespace %s: name TARGET and --program; the workloads are %q, the programs %q",
			cluster.Namespace, names, here)
	}
	return found, nil
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// writeSetup prints the configuration, or writes it where there is none.
func writeSetup(cmd *cobra.Command, setup editorSetup, found []debugging, write bool) error {
	text, notes, how := setup.text(found), cmd.ErrOrStderr(), setup.how
	if setup.connects {
		how = "Before you connect, begin a session in a terminal:"
		for _, d := range found {
			how += "\n  " + d.command()
		}
	}
	if !write {
		where := "your own configuration"
		if setup.file != "" {
			where = setup.file + " (--write does that)"
		}
		_, _ = fmt.Fprintf(notes, "For %s. %s\n", where, how)
		_, err := fmt.Fprint(cmd.OutOrStdout(), text)
		return err
	}
	if setup.file == "" {
		return usagef(cmd, "--write: this editor has no file in the project for it; add what is printed to your own configuration")
	}
	if err := os.MkdirAll(filepath.Dir(setup.file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(setup.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // a project's file, for all who work on it
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("there is a %s, which is not changed: add to it what is printed without --write", setup.file)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(notes, "%s is written. %s\n", setup.file, how)
	return err
}
