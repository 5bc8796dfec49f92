// What can be chosen in each picker, and what is remembered. Knows nothing of VS Code.

import * as path from 'node:path';
import type { Component, Container, Contexts, Program, Targets, Workload } from './shapes';

/** One thing that can be chosen. */
export interface Choice<T> {
    readonly label: string;
    readonly description?: string;
    readonly value: T;
    /** Choices of one group stand together, under its name. */
    readonly group?: string;
}

/** Keeps what was chosen last, by the name of the picker. */
export interface Memory {
    get(name: string): string | undefined;
    set(name: string, label: string): void;
}

/** Puts what was chosen last first. */
export function lastFirst<T>(choices: readonly Choice<T>[], last: string | undefined): Choice<T>[] {
    return [...choices.filter(c => c.label === last), ...choices.filter(c => c.label !== last)];
}

export function contextChoices(all: Contexts): Choice<string>[] {
    const choices = all.contexts.map(({ name }) => name === all.current ? { label: name, description: 'current', value: name } : { label: name, value: name });
    return lastFirst(choices, all.current);
}

/** What a target is chosen among: the workloads of a namespace, the services of the nodes, and this machine. */
export type TargetChoice = Choice<Workload | Component | undefined>;

export function targetChoices(targets: Targets): TargetChoice[] {
    return [
        ...targets.workloads.filter(w => w.debuggable).map(w => ({
            label: w.target, description: `${w.ready}/${w.replicas} ready`, value: w, group: 'Workloads',
        })),
        ...targets.nodes.filter(n => n.debuggable).flatMap(n => n.components.map(c => ({
            label: c.target, description: [c.version, n.platform].filter(text => text !== '').join(', '), value: c, group: 'Nodes',
        }))),
        { label: 'local', description: 'a process on this machine', value: undefined, group: 'This machine' },
    ];
}

/** Empty if there is nothing to choose, since kubedelve takes the right one by itself. */
export function containerChoices(containers: readonly Container[]): Choice<string>[] {
    if (containers.length < 2 || containers.some(c => c.isDefault)) {
        return [];
    }
    return containers.map(c => ({ label: c.name, description: c.image, value: c.name }));
}

/** Programs whose folder is named for the workload are the likely ones. */
export function programChoices(programs: readonly Program[], root: string, target: string): Choice<string>[] {
    const name = target.slice(target.search(/[^/:]*$/));
    const choices = programs.map(p => ({ label: relative(root, p.dir), description: p.importPath, value: p.dir }));
    const likely = (c: Choice<string>): boolean => path.basename(c.value) === name;
    return [...choices.filter(likely), ...choices.filter(c => !likely(c))];
}

function relative(root: string, dir: string): string {
    const name = path.relative(root, dir);
    return name.startsWith('..') ? dir : `./${name}`;
}
