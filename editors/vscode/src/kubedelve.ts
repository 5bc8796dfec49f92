// The program's commands, as functions. Knows nothing of VS Code.

import { spawn } from 'node:child_process';
import {
    type Check, type Contexts, type Program, type Session, type Targets, type Version,
    readChecks, readContexts, readNamespaces, readPrograms, readSessions, readTargets, readVersion,
} from './shapes';

/** What of a cluster is meant; what is left out is what the kubeconfig says. */
export interface Where {
    readonly kubeconfig?: string | undefined;
    readonly context?: string | undefined;
    readonly namespace?: string | undefined;
}

/** A command that failed; the message is what it says itself. */
export class CommandError extends Error {
    constructor(readonly args: readonly string[], message: string) {
        super(message);
        this.name = 'CommandError';
    }
}

/** How long a command may take that only reads. */
const patience = 30_000;

export class Kubedelve {
    /** Commands run in dir, and log is told of each. */
    constructor(readonly path: string, private readonly dir: string | undefined, private readonly log: (line: string) => void) {}

    async version(): Promise<Version> {
        return readVersion(await this.json(['version']));
    }

    async contexts(where: Where): Promise<Contexts> {
        return readContexts(await this.json(['contexts', ...flags(where)]));
    }

    async namespaces(where: Where): Promise<string[]> {
        return readNamespaces(await this.json(['namespaces', ...flags(where)]));
    }

    /** The workloads of a namespace, and the nodes. */
    async targets(where: Where): Promise<Targets> {
        return readTargets(await this.json(['targets', ...flags(where)]));
    }

    async programs(dir: string): Promise<Program[]> {
        return readPrograms(await this.json(['programs', dir]));
    }

    /** Of all namespaces if none is named. */
    async sessions(where: Where): Promise<Session[]> {
        return readSessions(await this.json(['status', ...flags(where), ...where.namespace ? [] : ['--all-namespaces']]));
    }

    /** Whether a session could begin; the target is asked for, too, if it is named. */
    async doctor(where: Where, target: string, container: string): Promise<Check[]> {
        return readChecks(await this.json(['doctor', ...target ? [target] : [], ...flags(where), ...container ? ['--container', container] : []], [0, 1]));
    }

    /** Ends a session, and tells what is being done. */
    async restore(where: Where, session: string, progress: (stage: string) => void): Promise<void> {
        let rest = '';
        await this.run(['restore', session, ...flags(where)], [0], undefined, text => {
            const lines = (rest + text).split('\n');
            rest = lines.pop() ?? '';
            lines.filter(line => line.trim() !== '').forEach(progress);
        });
    }

    private async json(args: readonly string[], codes = [0]): Promise<unknown> {
        const text = await this.run([...args, '-o', 'json'], codes, patience);
        try {
            return JSON.parse(text);
        } catch (error) {
            throw new CommandError(args, `kubedelve ${args[0] ?? ''}: ${String(error)}`);
        }
    }

    /** Runs a command and returns what it prints; codes are the exit codes with which it has done its work. */
    private run(args: readonly string[], codes: readonly number[], timeout?: number, onOutput?: (text: string) => void): Promise<string> {
        this.log(`${this.path} ${args.join(' ')}`);
        return new Promise((resolve, reject) => {
            const child = spawn(this.path, args, { cwd: this.dir, timeout, stdio: ['ignore', 'pipe', 'pipe'] });
            let stdout = '', stderr = '';
            child.stdout.setEncoding('utf8').on('data', (text: string) => {
                stdout += text;
                onOutput?.(text);
            });
            child.stderr.setEncoding('utf8').on('data', (text: string) => {
                stderr += text;
                onOutput?.(text);
            });
            child.on('error', error => { reject(new CommandError(args, `${this.path}: ${error.message}`)); });
            child.on('close', (code, signal) => {
                if (code === 0 || code !== null && codes.includes(code) && stdout !== '') {
                    resolve(stdout);
                    return;
                }
                const said = stderr.trim().replace(/^error: /, '');
                const ended = signal === null ? `exit code ${String(code)}` : `ended by ${signal}`;
                reject(new CommandError(args, said === '' ? `kubedelve ${args.join(' ')}: ${ended}` : said));
            });
        });
    }
}

function flags(where: Where): string[] {
    return [
        ...where.kubeconfig ? ['--kubeconfig', where.kubeconfig] : [],
        ...where.context ? ['--context', where.context] : [],
        ...where.namespace ? ['--namespace', where.namespace] : [],
    ];
}
