// What the Go test that starts these tests gives them: see internal/e2e/vscode_test.go.

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import * as path from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { Workbench, patience } from './page';
import { Server } from './server';

export function setting(name: string): string {
    const value = process.env[`KUBEDELVE_VSCODE_${name}`];
    if (value === undefined) {
        throw new Error(`KUBEDELVE_VSCODE_${name} is not set: run make test-vscode`);
    }
    return value;
}

/** Sends a request to the sample's first tier; it is answered when nothing is halted any more. */
export async function request(query: string): Promise<string> {
    const response = await fetch(`${setting('CLUSTER')}/buy?${query}`);
    return (await response.text()).trim();
}

/** The services that only debug pods answer for. */
export async function serving(): Promise<string[]> {
    const response = await fetch(`${setting('CLUSTER')}/serving`);
    return await response.json() as string[];
}

/** What is debugged in the cluster's namespace, as the command line has it: a session is in it until all is restored. */
export async function sessions(): Promise<string[]> {
    const { stdout } = await promisify(execFile)(setting('PROGRAM'), ['status', '-n', setting('NAMESPACE'), '-o', 'json']);
    return (JSON.parse(stdout) as { target: string }[]).map(session => session.target);
}

/** Starts a server with the extension installed, and opens the sample in a workbench. */
export async function open(): Promise<{ workbench: Workbench; close: () => Promise<void> }> {
    const home = setting('HOME_DIR');
    await mkdir(setting('SHOTS'), { recursive: true });
    const server = await Server.start(setting('CODE_SERVER'), home, setting('VSIX'), { 'kubedelve.path': setting('PROGRAM') });
    try {
        const workbench = await Workbench.open(server.url, setting('WORKSPACE'), path.join(home, 'chromium'), setting('SHOTS'));
        const close = async (): Promise<void> => {
            await workbench.close();
            await server.stop();
        };
        return { workbench, close };
    } catch (error) {
        await server.stop();
        throw error;
    }
}

/** A session that a terminal holds. */
export interface Held {
    /** HOST:PORT, for debuggers. */
    readonly address: string;
    /** Ends it as Ctrl-C does, and waits until all is restored. */
    end(): Promise<void>;
}

/** Begins a session as "kubedelve debug" in a terminal does, and waits until it serves. */
export async function hold(target: string, program: string, ...more: string[]): Promise<Held> {
    const args = ['debug', target, '-n', setting('NAMESPACE'), '--program', program, '--listen', '127.0.0.1:0', '-o', 'json', ...more];
    const child = spawn(setting('PROGRAM'), args, { cwd: setting('WORKSPACE'), stdio: ['ignore', 'pipe', 'inherit'] });
    const end = (): Promise<void> => endOf(child);
    const late = setTimeout(() => child.kill('SIGINT'), patience); // its output ends, and with it the loop
    let address = '';
    for await (const line of createInterface(child.stdout)) {
        const event = JSON.parse(line) as { event: string; listen?: string };
        address = event.listen ?? address;
        if (event.event === 'serving') {
            clearTimeout(late);
            child.stdout.resume(); // what comes later is nobody's
            return { address, end };
        }
    }
    clearTimeout(late);
    await end();
    throw new Error(`kubedelve ${args.join(' ')} has ended`);
}

async function endOf(child: ChildProcess): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) {
        return;
    }
    const ended = new Promise(resolve => child.once('exit', resolve));
    child.kill('SIGINT');
    await ended;
}
