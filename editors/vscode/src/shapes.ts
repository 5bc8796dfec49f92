// What kubedelve's commands print with "-o json" (docs/cli.md), as far as the extension uses it,
// and how it is read. A member that is missing or of another type is an error that names it.

export interface Version {
    readonly version: string;
}

export interface Context {
    readonly name: string;
    readonly namespace: string;
}

export interface Contexts {
    /** The name of the one that is taken if none is named; empty if there is none. */
    readonly current: string;
    readonly contexts: readonly Context[];
}

export interface Container {
    readonly name: string;
    readonly image: string;
    /** The one that is taken if none is named. */
    readonly isDefault: boolean;
}

/** Whether something can be debugged, and why not. */
interface Debuggable {
    readonly debuggable: boolean;
    readonly reason: string;
}

export interface Workload extends Debuggable {
    /** What a launch configuration calls it: "deploy/web". */
    readonly target: string;
    readonly namespace: string;
    readonly replicas: number;
    readonly ready: number;
    readonly containers: readonly Container[];
}

/** A service of a node. */
export interface Component {
    /** What a launch configuration calls it: "node/n1:kubelet". */
    readonly target: string;
    readonly name: string;
    readonly version: string;
}

export interface Node extends Debuggable {
    readonly name: string;
    readonly platform: string;
    readonly components: readonly Component[];
}

export interface Targets {
    readonly workloads: readonly Workload[];
    readonly nodes: readonly Node[];
    /** What is left out, and why. */
    readonly notes: readonly string[];
}

/** A main package of the workspace. */
export interface Program {
    readonly importPath: string;
    /** Absolute. */
    readonly dir: string;
}

/** A debug session that the cluster knows of, whoever began it. */
export interface Session {
    readonly id: string;
    readonly namespace: string;
    readonly target: string;
    readonly container: string;
    readonly pod: string;
    readonly owner: string;
    readonly created: Date;
}

export function readVersion(value: unknown): Version {
    return { version: new Members(value, 'version').string('version') };
}

export function readContexts(value: unknown): Contexts {
    const all = new Members(value, 'contexts');
    return {
        current: all.string('current', ''),
        contexts: list(all.any('contexts'), 'contexts', m => ({ name: m.string('name'), namespace: m.string('namespace', 'default') })),
    };
}

export function readNamespaces(value: unknown): string[] {
    return strings(new Members(value, 'namespaces').any('namespaces'), 'namespaces');
}

export function readTargets(value: unknown): Targets {
    const all = new Members(value, 'targets');
    return {
        workloads: list(all.any('workloads') ?? [], 'workloads', m => ({
            target: m.string('target'), namespace: m.string('namespace'), replicas: m.number('replicas', 0), ready: m.number('ready', 0),
            containers: list(m.any('containers') ?? [], 'containers', c => ({
                name: c.string('name'), image: c.string('image', ''), isDefault: c.boolean('default', false),
            })),
            ...readDebuggable(m),
        })),
        nodes: list(all.any('nodes') ?? [], 'nodes', m => ({
            name: m.string('name'), platform: m.string('platform', ''),
            components: list(m.any('components') ?? [], 'components', c => ({
                target: c.string('target'), name: c.string('name'), version: c.string('version', ''),
            })),
            ...readDebuggable(m),
        })),
        notes: strings(all.any('notes') ?? [], 'notes'),
    };
}

function readDebuggable(m: Members): Debuggable {
    return { debuggable: m.boolean('debuggable'), reason: m.string('reason', '') };
}

export function readPrograms(value: unknown): Program[] {
    return list(new Members(value, 'programs').any('programs'), 'programs', m => ({ importPath: m.string('importPath'), dir: m.string('dir') }));
}

export interface Check {
    readonly name: string;
    readonly ok: boolean;
    readonly text: string;
}

export function readChecks(value: unknown): Check[] {
    return list(new Members(value, 'doctor').any('checks'), 'checks', m => ({ name: m.string('name'), ok: m.boolean('ok'), text: m.string('text') }));
}

export function readSessions(value: unknown): Session[] {
    return list(value, 'sessions', m => ({
        id: m.string('id'), namespace: m.string('namespace'), target: m.string('target'), container: m.string('container', ''),
        pod: m.string('pod', ''), owner: m.string('owner', ''), created: new Date(m.string('created')),
    }));
}

/** The members of a JSON object. Without a default a member must be there. */
export class Members {
    private readonly members: ReadonlyMap<string, unknown>;

    constructor(value: unknown, private readonly what: string) {
        if (typeof value !== 'object' || value === null || Array.isArray(value)) {
            throw new Error(`${what}: not an object`);
        }
        this.members = new Map(Object.entries(value));
    }

    any(name: string): unknown {
        return this.members.get(name);
    }

    string(name: string, otherwise?: string): string {
        const value = this.members.get(name) ?? otherwise;
        return typeof value === 'string' ? value : this.wrong(name, 'a string');
    }

    number(name: string, otherwise?: number): number {
        const value = this.members.get(name) ?? otherwise;
        return typeof value === 'number' ? value : this.wrong(name, 'a number');
    }

    boolean(name: string, otherwise?: boolean): boolean {
        const value = this.members.get(name) ?? otherwise;
        return typeof value === 'boolean' ? value : this.wrong(name, 'true or false');
    }

    private wrong(name: string, type: string): never {
        throw new Error(`${this.what}: "${name}" is not ${type}`);
    }
}

function list<T>(value: unknown, what: string, read: (members: Members) => T): T[] {
    if (!Array.isArray(value)) {
        throw new Error(`${what}: not a list`);
    }
    return value.map((element, i) => read(new Members(element, `${what}[${i}]`)));
}

function strings(value: unknown, what: string): string[] {
    if (!Array.isArray(value) || !value.every(element => typeof element === 'string')) {
        throw new Error(`${what}: not a list of strings`);
    }
    return value;
}
