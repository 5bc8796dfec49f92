// The commands of the palette and of the views' buttons.

import * as vscode from 'vscode';
import type { Logs } from './adapter';
import type { Kubedelve } from './kubedelve';
import { type Locator, messageOf } from './locate';
import { type Pickers, Cancelled } from './pickers';
import { type Found, type SessionsView, restore } from './sessions';
import { type Item, type TargetsView, targetOfItem } from './targets';

export interface Parts {
    readonly type: string;
    readonly locator: Locator;
    readonly pickers: Pickers;
    readonly targets: TargetsView;
    readonly sessions: SessionsView;
    readonly log: vscode.LogOutputChannel;
    readonly logs: Logs;
}

export function registerCommands(parts: Parts): vscode.Disposable {
    const { locator, targets, sessions } = parts;
    const commands: Record<string, (argument?: unknown) => unknown> = {
        'kubedelve.debug': item => debug(parts, item as Item | undefined),
        'kubedelve.attach': () => attach(parts),
        'kubedelve.restore': found => end(parts, found as Found | undefined),
        'kubedelve.showSessions': () => vscode.commands.executeCommand('kubedelve.sessions.focus'),
        'kubedelve.doctor': item => doctor(parts, item as Item | undefined),
        'kubedelve.openLog': () => openLog(parts),
        'kubedelve.findProgram': () => locator.get(),
        'kubedelve.refresh': () => {
            targets.refresh();
            sessions.refresh();
        },
    };
    return vscode.Disposable.from(...Object.entries(commands).map(([name, run]) => vscode.commands.registerCommand(name, async (argument?: unknown) => {
        try {
            await run(argument);
        } catch (error) {
            if (!(error instanceof Cancelled)) {
                parts.log.error(`${name}: ${messageOf(error)}`);
                await vscode.window.showErrorMessage(messageOf(error));
            }
        }
    })));
}

/** Debugs what was clicked at, or what is chosen; the configuration's provider asks for the rest. */
async function debug({ type }: Parts, item?: Item): Promise<void> {
    const target = item === undefined ? undefined : targetOfItem(item);
    await vscode.debug.startDebugging(vscode.workspace.workspaceFolders?.[0], {
        type, request: 'launch', name: target?.name ?? 'Debug on Kubernetes', ...target === undefined ? {} : { target },
    });
}

/** Connects to a session that "kubedelve debug" holds in a terminal. */
async function attach({ type }: Parts): Promise<void> {
    const address = await vscode.window.showInputBox({
        title: 'Attach to a session', value: '127.0.0.1:2345', ignoreFocusOut: true,
        prompt: 'The address that "kubedelve debug" prints',
        validateInput: text => /^.+:\d+$/.test(text) ? undefined : 'Write HOST:PORT',
    });
    if (address === undefined) {
        return;
    }
    const colon = address.lastIndexOf(':');
    await vscode.debug.startDebugging(vscode.workspace.workspaceFolders?.[0], {
        type, request: 'attach', name: address, host: address.slice(0, colon), port: Number(address.slice(colon + 1)),
    });
}

async function end(parts: Parts, found?: Found): Promise<void> {
    const program = await parts.locator.get();
    const session = program && (found ?? await chooseSession(parts, program));
    if (program === undefined || session === undefined) {
        return;
    }
    await restore(program, session);
    parts.sessions.refresh();
}

async function chooseSession({ sessions }: Parts, program: Kubedelve): Promise<Found | undefined> {
    const all = await sessions.list(program);
    if (all.length === 0) {
        await vscode.window.showInformationMessage('There is no session: nothing to restore.');
        return undefined;
    }
    const items = all.map(found => ({
        label: found.session.target, description: `${found.session.namespace} · ${found.session.owner}`, detail: found.session.pod, found,
    }));
    return (await vscode.window.showQuickPick(items, { title: 'The session to end', matchOnDescription: true }))?.found;
}

/** Checks whether a session could begin, and shows what was found. */
async function doctor({ locator, pickers, log }: Parts, item?: Item): Promise<void> {
    const program = await locator.get();
    if (program === undefined) {
        return;
    }
    const target = await pickers.target(program, (item && targetOfItem(item)) ?? {});
    const checks = await vscode.window.withProgress(
        { location: vscode.ProgressLocation.Notification, title: `Checking ${target.name ?? ''}` },
        () => program.doctor(target, target.name ?? '', target.container ?? ''));
    for (const { name, ok, text } of checks) {
        if (ok) {
            log.info(`${name}: ${text}`);
        } else {
            log.error(`${name}: ${text}`);
        }
    }
    const failed = checks.filter(check => !check.ok);
    if (failed.length === 0) {
        await vscode.window.showInformationMessage(`${target.name ?? ''} can be debugged.`);
        return;
    }
    log.show();
    await vscode.window.showErrorMessage(failed.map(check => check.text).join('; '));
}

async function openLog({ log, logs }: Parts): Promise<void> {
    const items: (vscode.QuickPickItem & { open: () => unknown })[] = [
        { label: 'Extension', description: 'what it ran, and why it failed', open: () => { log.show(); } },
    ];
    for (const [uri, label, description] of [
        [logs.program, 'Program', 'the log of the sessions of this window'],
        [logs.messages, 'Messages', 'of the debug protocol, if kubedelve.logMessages is on'],
    ] as const) {
        try {
            await vscode.workspace.fs.stat(uri);
            items.push({ label, description, open: () => vscode.window.showTextDocument(uri) });
        } catch {
            // there was no session yet
        }
    }
    await (await vscode.window.showQuickPick(items, { title: 'Open a log' }))?.open();
}
