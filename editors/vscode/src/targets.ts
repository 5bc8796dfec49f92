// The view of what can be debugged: contexts, their namespaces with workloads and containers, and
// their nodes with components.

import * as vscode from 'vscode';
import type { Kubedelve } from './kubedelve';
import { type Locator, messageOf } from './locate';
import type { Target } from './pickers';
import type { Component, Container, Context, Node, Targets, Workload } from './shapes';

export type Item =
    | { readonly kind: 'context'; readonly context: Context; readonly current: boolean }
    | { readonly kind: 'namespace'; readonly context: Context; readonly name: string }
    | { readonly kind: 'nodes'; readonly context: Context }
    | { readonly kind: 'workload'; readonly context: Context; readonly workload: Workload }
    | { readonly kind: 'container'; readonly context: Context; readonly workload: Workload; readonly container: Container }
    | { readonly kind: 'node'; readonly context: Context; readonly node: Node }
    | { readonly kind: 'component'; readonly context: Context; readonly component: Component }
    | { readonly kind: 'message'; readonly text: string; readonly error: boolean };

/** What a debug button means; undefined for items that have none. */
export function targetOfItem(item: Item): Target | undefined {
    switch (item.kind) {
        case 'workload':
            return { context: item.context.name, namespace: item.workload.namespace, name: item.workload.target };
        case 'container':
            return { context: item.context.name, namespace: item.workload.namespace, name: item.workload.target, container: item.container.name };
        case 'component':
            return { context: item.context.name, name: item.component.target };
        case 'context': case 'namespace': case 'nodes': case 'node': case 'message':
            return undefined;
    }
}

export class TargetsView implements vscode.TreeDataProvider<Item> {
    private readonly changed = new vscode.EventEmitter<undefined>();
    readonly onDidChangeTreeData = this.changed.event;

    constructor(private readonly locator: Locator) {}

    refresh(): void {
        this.changed.fire(undefined);
    }

    getTreeItem(item: Item): vscode.TreeItem {
        const { label, icon, description, tooltip, leaf } = look(item);
        const tree = new vscode.TreeItem(label, leaf ? vscode.TreeItemCollapsibleState.None : vscode.TreeItemCollapsibleState.Collapsed);
        tree.iconPath = new vscode.ThemeIcon(icon);
        tree.description = description ?? '';
        tree.tooltip = tooltip ?? label;
        tree.contextValue = item.kind === 'workload' && !item.workload.debuggable ? 'message' : item.kind;
        if (item.kind === 'context' && item.current) {
            tree.collapsibleState = vscode.TreeItemCollapsibleState.Expanded;
        }
        return tree;
    }

    async getChildren(item?: Item): Promise<Item[]> {
        const program = await this.locator.quietly();
        if (program === undefined) {
            return []; // the view's welcome text says what to do
        }
        try {
            return await children(program, item);
        } catch (error) {
            return [{ kind: 'message', text: messageOf(error), error: true }];
        }
    }
}

async function children(program: Kubedelve, item: Item | undefined): Promise<Item[]> {
    switch (item?.kind) {
        case undefined: {
            const { contexts, current } = await program.contexts({});
            return contexts.map(context => ({ kind: 'context', context, current: context.name === current }));
        }
        case 'context': {
            const { context } = item;
            const names = await namespaces(program, context);
            return [...names.map(name => ({ kind: 'namespace', context, name }) as const), { kind: 'nodes', context }];
        }
        case 'namespace': {
            const { context, name } = item;
            const { workloads, notes } = await program.targets({ context: context.name, namespace: name });
            return orNotes(workloads.map(workload => ({ kind: 'workload', context, workload })), notes);
        }
        case 'nodes': {
            const { context } = item;
            const all: Targets = await program.targets({ context: context.name, namespace: context.namespace });
            return orNotes(all.nodes.map(node => ({ kind: 'node', context, node })), all.notes);
        }
        case 'workload':
            return item.workload.containers.map(container => ({ kind: 'container', context: item.context, workload: item.workload, container }));
        case 'node':
            return item.node.debuggable
                ? item.node.components.map(component => ({ kind: 'component', context: item.context, component }))
                : [{ kind: 'message', text: item.node.reason, error: false }];
        case 'container': case 'component': case 'message':
            return [];
    }
}

/** All namespaces, or the context's own for who may not list them. */
async function namespaces(program: Kubedelve, context: Context): Promise<string[]> {
    try {
        return await program.namespaces({ context: context.name });
    } catch (error) {
        // Without a cluster, too: what is asked of the namespace then says why.
        return context.namespace === '' ? Promise.reject(error instanceof Error ? error : new Error(String(error))) : [context.namespace];
    }
}

/** Where there is nothing it is said why. */
function orNotes(items: Item[], notes: readonly string[]): Item[] {
    if (items.length > 0) {
        return items;
    }
    return (notes.length > 0 ? notes : ['nothing']).map(text => ({ kind: 'message', text, error: false }));
}

interface Look {
    readonly label: string;
    readonly icon: string;
    readonly description?: string;
    readonly tooltip?: string;
    readonly leaf?: boolean;
}

function look(item: Item): Look {
    switch (item.kind) {
        case 'context':
            return { label: item.context.name, icon: 'cloud', description: item.current ? 'current' : '' };
        case 'namespace':
            return { label: item.name, icon: 'symbol-namespace' };
        case 'nodes':
            return { label: 'Nodes', icon: 'server-environment' };
        case 'workload': {
            const { target, ready, replicas, reason } = item.workload;
            return { label: target, icon: 'package', description: `${ready}/${replicas}`, tooltip: reason === '' ? target : reason };
        }
        case 'container':
            return { label: item.container.name, icon: 'symbol-method', description: item.container.image, leaf: true };
        case 'node':
            return { label: item.node.name, icon: 'server', description: item.node.platform };
        case 'component':
            return { label: item.component.name, icon: 'gear', description: item.component.version, leaf: true };
        case 'message':
            return { label: item.text, icon: item.error ? 'error' : 'info', leaf: true };
    }
}
