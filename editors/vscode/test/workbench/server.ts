// A code-server of the test's own, on a free port of this machine, with nothing in its folders
// but what the test wants.

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { openSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import * as path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';

/** No start page, no updates, nothing that moves by itself. */
const settings = {
    'telemetry.telemetryLevel': 'off',
    'update.mode': 'none',
    'extensions.autoUpdate': false,
    'extensions.autoCheckUpdates': false,
    'extensions.ignoreRecommendations': true,
    'workbench.startupEditor': 'none',
    'workbench.enableExperiments': false,
    'workbench.tips.enabled': false,
    'security.workspace.trust.enabled': false,
    'chat.commandCenter.enabled': false,
    'git.enabled': false,
    'files.autoSave': 'off',
    'editor.minimap.enabled': false,
    'editor.lightbulb.enabled': 'off',
    'debug.toolBarLocation': 'docked',
};

export class Server {
    private constructor(readonly url: string, private readonly process: ChildProcess) {}

    /**
     * Starts the server that is installed in dir, with all that it writes in home. The settings of the
     * machine are those that are the server's own, and not the browser's.
     */
    static async start(dir: string, home: string, vsix: string | undefined, ofMachine: Record<string, unknown>): Promise<Server> {
        for (const [scope, values] of [['User', settings], ['Machine', ofMachine]] as const) {
            const folder = path.join(home, 'data', scope);
            await mkdir(folder, { recursive: true });
            await writeFile(path.join(folder, 'settings.json'), JSON.stringify(values, undefined, 4));
        }
        const port = await freePort();
        const env = {
            ...process.env, HOME: home, XDG_CONFIG_HOME: path.join(home, 'config'), XDG_DATA_HOME: path.join(home, 'share'),
            EXTENSIONS_GALLERY: '{"serviceUrl":"http://127.0.0.1:9/"}', // it would be looked up at every start
        };
        const args = [
            path.join(dir, 'node_modules', 'code-server', 'out', 'node', 'entry.js'), '--auth', 'none', '--bind-addr', `127.0.0.1:${port}`,
            '--user-data-dir', path.join(home, 'data'), '--extensions-dir', path.join(home, 'extensions'), '--config', path.join(home, 'config.yaml'),
            '--disable-telemetry', '--disable-update-check', '--disable-workspace-trust', '--disable-getting-started-override',
        ];
        if (vsix !== undefined) {
            await promisify(execFile)(process.execPath, [...args, '--install-extension', vsix, '--force'], { env });
        }
        const log = openSync(path.join(home, 'server.log'), 'a');
        const child = spawn(process.execPath, args, { env, stdio: ['ignore', log, log], detached: true });
        const server = new Server(`http://127.0.0.1:${port}`, child);
        await server.ready();
        return server;
    }

    /** Ends it, and what it has started: its extension hosts would live on for a while. */
    async stop(): Promise<void> {
        const { pid } = this.process;
        if (pid === undefined || this.process.exitCode !== null) {
            return;
        }
        const ended = new Promise(resolve => this.process.once('exit', resolve));
        process.kill(-pid, 'SIGTERM');
        await ended;
        try {
            process.kill(-pid, 'SIGKILL');
        } catch {
            // all are gone
        }
    }

    private async ready(): Promise<void> {
        const deadline = Date.now() + 60_000;
        while (Date.now() < deadline && this.process.exitCode === null) {
            try {
                if ((await fetch(`${this.url}/healthz`)).ok) {
                    return;
                }
            } catch {
                // it does not listen yet
            }
            await pause(100);
        }
        await this.stop();
        throw new Error('code-server does not come up: see server.log');
    }
}

async function freePort(): Promise<number> {
    const listener = createServer();
    await new Promise<void>(resolve => listener.listen(0, '127.0.0.1', resolve));
    const { port } = listener.address() as AddressInfo;
    await new Promise(resolve => listener.close(resolve));
    return port;
}
