// Asks the user for what a launch configuration leaves out.

import * as vscode from 'vscode';
import { type Choice, type Memory, type TargetChoice, containerChoices, contextChoices, lastFirst, programChoices, targetChoices } from './choices';
import type { Kubedelve, Where } from './kubedelve';
import type { Workload } from './shapes';

/** What is debugged, as far as it is known; the attribute "target" of a launch configuration. */
export interface Target {
    readonly name?: string;
    readonly namespace?: string;
    readonly container?: string;
    readonly context?: string;
    readonly kubeconfig?: string;
    readonly [other: string]: unknown;
}

/** The user wants no session. */
export class Cancelled extends Error {}

/** Remembers per workspace. */
export class WorkspaceMemory implements Memory {
    constructor(private readonly state: vscode.Memento) {}

    get(name: string): string | undefined {
        return this.state.get<string>(`last ${name}`);
    }

    set(name: string, label: string): void {
        void this.state.update(`last ${name}`, label);
    }
}

export class Pickers {
    constructor(private readonly memory: Memory) {}

    /** Completes a target. What it says already is not asked. */
    async target(program: Kubedelve, target: Target): Promise<Target> {
        if (target.name !== undefined && target.name !== '') {
            return this.container(program, target);
        }
        const context = target.context ?? await this.context(program, target);
        const namespace = target.namespace ?? await this.namespace(program, { ...target, context });
        const where = { kubeconfig: target.kubeconfig, context, namespace };
        const all = program.targets(where).then(targetChoices);
        const { label, value } = await this.choose<TargetChoice['value']>('target', 'What to debug', all);
        if (value === undefined) {
            return { ...target, name: label };
        }
        const known = { ...target, ...context === undefined ? {} : { context }, name: label };
        if (!('containers' in value)) {
            return known; // nodes are in no namespace
        }
        return this.containerOf(value, { ...known, namespace: value.namespace });
    }

    /** The folder of the main package. */
    async program(program: Kubedelve, folder: vscode.WorkspaceFolder | undefined, target: string): Promise<string> {
        if (folder === undefined) {
            throw new Error('Open the folder of the program, or name it with the attribute "program" of the launch configuration.');
        }
        const root = folder.uri.fsPath;
        const choices = programChoices(await program.programs(root), root, target);
        const [first, second] = choices;
        if (first === undefined) {
            throw new Error(`There is no main package in ${root}.`);
        }
        return second === undefined ? first.value : (await this.choose('program', `The program of ${target}`, choices)).value;
    }

    /** A context, or undefined if there is only the current one. */
    private async context(program: Kubedelve, where: Where): Promise<string | undefined> {
        const all = await program.contexts(where);
        if (all.contexts.length < 2) {
            return undefined;
        }
        return (await this.choose('context', 'The cluster', contextChoices(all))).value;
    }

    private async namespace(program: Kubedelve, where: Where): Promise<string> {
        let names: string[];
        try {
            names = await program.namespaces(where);
        } catch (error) {
            // Who may not list them may still know one.
            const { current, contexts } = await program.contexts(where);
            const value = contexts.find(c => c.name === (where.context ?? current))?.namespace ?? 'default';
            const name = await vscode.window.showInputBox({ title: 'The namespace', value, prompt: String(error), ignoreFocusOut: true });
            return name ?? cancel();
        }
        return (await this.choose('namespace', 'The namespace', names.map(name => ({ label: name, value: name })))).value;
    }

    /** Asks for the container of a named target if there is more than one to choose from. */
    private async container(program: Kubedelve, target: Target): Promise<Target> {
        if (target.container !== undefined || !target.name?.startsWith('deploy/')) {
            return target;
        }
        try {
            const { workloads } = await program.targets(target);
            const workload = workloads.find(w => w.target === target.name);
            return workload === undefined ? target : await this.containerOf(workload, target);
        } catch (error) {
            if (error instanceof Cancelled) {
                throw error;
            }
            return target; // without the right to list, or without a cluster: the session will tell
        }
    }

    private async containerOf(workload: Workload, target: Target): Promise<Target> {
        const choices = containerChoices(workload.containers);
        if (choices.length === 0 || target.container !== undefined) {
            return target;
        }
        return { ...target, container: (await this.choose('container', `The container of ${workload.target}`, choices)).value };
    }

    /** Shows a picker, with what was chosen last on top. */
    private async choose<T>(name: string, title: string, choices: Choice<T>[] | Promise<Choice<T>[]>): Promise<Choice<T>> {
        const last = this.memory.get(name);
        // A picker that is open would swallow the error of what it waits for.
        const items = await vscode.window.withProgress({ location: vscode.ProgressLocation.Window, title: `kubedelve: ${title}` }, async () => withGroups(lastFirst(await choices, last), last));
        const item = await vscode.window.showQuickPick(items, { title, matchOnDescription: true, ignoreFocusOut: true });
        if (item?.choice === undefined) {
            return cancel();
        }
        this.memory.set(name, item.choice.label);
        return item.choice;
    }
}

interface Item<T> extends vscode.QuickPickItem {
    /** None for the name of a group. */
    readonly choice?: Choice<T>;
}

function withGroups<T>(choices: readonly Choice<T>[], last: string | undefined): Item<T>[] {
    const items: Item<T>[] = [];
    let group: string | undefined;
    for (const choice of choices) {
        const isLast = choice.label === last;
        const own = isLast ? 'Last time' : choice.group ?? '';
        if (own !== group && (group !== undefined || own !== '')) {
            items.push({ label: own, kind: vscode.QuickPickItemKind.Separator });
        }
        group = own;
        items.push({ label: choice.label, ...choice.description === undefined ? {} : { description: choice.description }, choice });
    }
    return items;
}

function cancel(): never {
    throw new Cancelled();
}
