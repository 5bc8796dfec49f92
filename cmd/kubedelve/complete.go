package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubedelve/kubedelve/buildflags"
	"github.com/kubedelve/kubedelve/kubelaunch"
)

// completionPatience bounds a completion: a shell that hangs is worse than none.
const completionPatience = 2 * time.Second

// completion makes a completion of what lists names, maybe each with a tab and a
// description. What can't be listed is not offered.
func completion(list func(ctx context.Context, args []string) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
		defer cancel()
		return list(ctx, args), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeTargets offers what can be debugged.
func completeTargets(g *global) cobra.CompletionFunc {
	return completion(func(ctx context.Context, args []string) []string {
		if len(args) > 0 {
			return nil
		}
		names := []string{kubelaunch.KindLocal + "\tthis machine"}
		inventory := g.inventory(ctx)
		for _, w := range inventory.Workloads {
			names = append(names, w.Target)
		}
		for _, n := range inventory.Nodes {
			for _, c := range n.Components {
				names = append(names, c.Target+"\t"+c.Version)
			}
		}
		return names
	})
}

// inventory is what can be debugged; empty if that can't be told.
func (g *global) inventory(ctx context.Context) *kubelaunch.Inventory {
	cluster, err := g.cluster()
	if err == nil {
		if inventory, err := kubelaunch.TakeInventory(ctx, cluster); err == nil {
			return inventory
		}
	}
	return &kubelaunch.Inventory{}
}

// completeTargetFlags offers values for the flags of commands that have a target as
// their first argument.
func completeTargetFlags(cmd *cobra.Command, g *global) {
	_ = cmd.RegisterFlagCompletionFunc("container", completion(func(ctx context.Context, args []string) (names []string) {
		for _, w := range g.inventory(ctx).Workloads {
			if len(args) == 0 || args[0] != w.Target {
				continue
			}
			for _, c := range w.Containers {
				names = append(names, c.Name+"\t"+c.Image)
			}
		}
		return names
	}))
	completePrograms(cmd)
}

// completePrograms offers the main packages here for --program.
func completePrograms(cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("program", completion(func(ctx context.Context, _ []string) (names []string) {
		programs, err := buildflags.Programs(ctx, buildflags.Config{}, nil)
		if err != nil {
			return nil
		}
		for _, p := range programs {
			names = append(names, programPath(".", p.Dir)+"\t"+p.ImportPath)
		}
		return names
	}))
}

// completeSessions offers the sessions there are.
func completeSessions(scope *sessionScope) cobra.CompletionFunc {
	return completion(func(ctx context.Context, _ []string) (names []string) {
		infos, _, err := scope.list(ctx)
		if err != nil {
			return nil
		}
		for _, i := range infos {
			names = append(names, i.ID+"\t"+i.Target, i.Target)
		}
		return names
	})
}

// completeGlobal offers values for the flags of every command.
func completeGlobal(root *cobra.Command, g *global) {
	_ = root.RegisterFlagCompletionFunc("namespace", completion(func(ctx context.Context, _ []string) []string {
		cluster, err := g.cluster()
		if err != nil {
			return nil
		}
		names, err := kubelaunch.Namespaces(ctx, cluster)
		if err != nil {
			return []string{cluster.Namespace}
		}
		return names
	}))
	_ = root.RegisterFlagCompletionFunc("context", completion(func(context.Context, []string) (names []string) {
		_, contexts, err := g.contexts()
		if err != nil {
			return nil
		}
		for _, c := range contexts {
			names = append(names, c.Name+"\t"+c.Server)
		}
		return names
	}))
}
