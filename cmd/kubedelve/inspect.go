package main

import (
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/internal/version"
)

func newInspect(*global) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "inspect BINARY",
		Short: "Tell whether a binary can be debugged, and how it was built",
		Long: `Tell whether a Go binary can be debugged and, if not, why and what to do about it.
The exit code is 1 if it can't.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			info, err := buildflags.Inspect(args[0])
			if err != nil {
				return err
			}
			if output == formatJSON {
				err = writeJSON(cmd, info)
			} else {
				err = writeInfo(cmd, info)
			}
			if err == nil && !info.Debuggable {
				return fmt.Errorf("%s can't be debugged as it is", args[0])
			}
			return err
		},
	}
	addOutput(cmd, &output)
	return cmd
}

func writeInfo(cmd *cobra.Command, info *buildflags.Info) error {
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			_, _ = fmt.Fprintf(table, "%s\t%s\n", name, value)
		}
	}
	debuggable := "yes"
	if !info.Debuggable {
		debuggable = "no"
	}
	row("debuggable", debuggable)
	for _, p := range info.Problems {
		_, _ = fmt.Fprintf(table, "  problem\t%s\n", p.String())
	}
	row("go", info.GoVersion)
	row("platform", info.Platform.String())
	row("package", info.Package)
	row("module", info.Module+" "+info.Version)
	linkage := "dynamic, " + info.Interpreter
	if info.Static {
		linkage = "static"
	}
	row("linkage", linkage)
	for _, name := range slices.Sorted(maps.Keys(info.Settings)) {
		row("  "+name, info.Settings[name])
	}
	return table.Flush()
}

func newVersion() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output == formatJSON {
				return writeJSON(cmd, map[string]string{"version": version.String(), "agentImage": defaultAgentImage()})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "kubedelve %s\n", version.String())
			return err
		},
	}
	addOutput(cmd, &output)
	return cmd
}
