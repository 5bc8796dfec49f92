package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// completionPatience bounds a completion: a shell that hangs is worse than none.
const completionPatience = 2 * time.Second

// completeTargets offers what can be debugged.
func completeTargets(g *global) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		names := []string{"local"}
		cluster, err := g.cluster()
		if err != nil || len(args) > 0 {
			return names, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
		defer cancel()
		list, err := cluster.Client.AppsV1().Deployments(cluster.Namespace).List(ctx, metav1.ListOptions{})
		if err == nil {
			for _, d := range list.Items {
				names = append(names, "deploy/"+d.Name)
			}
		}
		if nodes, err := cluster.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err == nil {
			for _, n := range nodes.Items {
				names = append(names, "node/"+n.Name+":kubelet")
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeSessions offers the sessions there are.
func completeSessions(scope *sessionScope) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
		defer cancel()
		infos, _, err := scope.list(ctx)
		var names []string
		if err == nil {
			for _, i := range infos {
				names = append(names, i.ID+"\t"+i.Target, i.Target)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeNamespaces offers namespaces for -n.
func completeNamespaces(root *cobra.Command, g *global) {
	_ = root.RegisterFlagCompletionFunc("namespace", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		cluster, err := g.cluster()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
		defer cancel()
		var names []string
		if list, err := cluster.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); err == nil {
			for _, n := range list.Items {
				names = append(names, n.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
}
