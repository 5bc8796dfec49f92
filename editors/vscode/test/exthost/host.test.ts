import * as assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import * as path from 'node:path';
import * as vscode from 'vscode';
import { Members } from '../../src/shapes';
import { liveEvent, readLive } from '../../src/statusBar';
import { request, setting } from '../workbench/surroundings';

const folder = vscode.workspace.workspaceFolders?.[0];
const main = path.join(setting('WORKSPACE'), 'middle', 'main.go');

suite('in the extension host', () => {
    const subscriptions: vscode.Disposable[] = [];
    teardown(() => {
        subscriptions.splice(0).forEach(s => { s.dispose(); });
        vscode.debug.removeBreakpoints(vscode.debug.breakpoints);
    });

    /** Resolves with the first event that is wanted. */
    function next<T>(event: vscode.Event<T>, wanted: (value: T) => boolean = () => true): Promise<T> {
        return new Promise(resolve => {
            subscriptions.push(event(value => {
                if (wanted(value)) {
                    resolve(value);
                }
            }));
        });
    }

    /** Resolves when the adapter of any session tells of the event. */
    function told(name: string): Promise<{ session: vscode.DebugSession; body: Members }> {
        return new Promise(resolve => {
            subscriptions.push(vscode.debug.registerDebugAdapterTrackerFactory('kubedelve', {
                createDebugAdapterTracker: session => ({
                    onDidSendMessage: (message: unknown) => {
                        const m = new Members(message, 'message');
                        if (m.string('type') === 'event' && m.string('event') === name) {
                            resolve({ session, body: new Members(m.any('body') ?? {}, name) });
                        }
                    },
                }),
            }));
        });
    }

    test('every command of package.json is there', async () => {
        const extension = vscode.extensions.getExtension('kubedelve.kubedelve');
        assert.ok(extension);
        await extension.activate();
        const there = new Set(await vscode.commands.getCommands(true));
        const contributed = (extension.packageJSON as { contributes: { commands: { command: string }[] } }).contributes.commands;
        assert.deepEqual(contributed.map(c => c.command).filter(command => !there.has(command)), []);
    });

    test('a configuration of launch.json stops at its breakpoint and tells where', async () => {
        const line = (await readFile(main, 'utf8')).split('\n').findIndex(text => text.includes('// BREAKPOINT'));
        vscode.debug.addBreakpoints([new vscode.SourceBreakpoint(new vscode.Location(vscode.Uri.file(main), new vscode.Position(line, 0)), true, 'order.Item == "tea"')]);
        const live = next(vscode.debug.onDidReceiveDebugSessionCustomEvent, e => e.event === liveEvent);
        const stopped = told('stopped');
        assert.ok(await vscode.debug.startDebugging(folder, 'middle'));
        const { name, place, swaps } = readLive((await live).body);
        assert.equal(name, 'deploy/middle');
        assert.match(place, /^pod middle-kubedelve-\w+, container app$/);
        assert.equal(swaps, 0);

        let answered = false;
        const answer = insist('item=tea&count=2', () => answered);
        const { session, body } = await stopped;
        const stack = new Members(await session.customRequest('stackTrace', { threadId: body.number('threadId'), startFrame: 0, levels: 1 }), 'stackTrace');
        const [top] = stack.any('stackFrames') as unknown[];
        assert.equal(new Members(top, 'frame').string('name'), 'main.priceOf');
        assert.equal(new Members(top, 'frame').number('line'), line + 1);
        const ended = next(vscode.debug.onDidTerminateDebugSession);
        await vscode.debug.stopDebugging(session);
        await ended;
        answered = true;
        await answer;
        assert.equal(await request('item=tea&count=2'), 'front: 2 tea cost 12');
    });
});

/** Sends a request until it comes through: the pod may have taken its place a moment ago. */
async function insist(query: string, enough: () => boolean): Promise<void> {
    while (!enough()) {
        await request(query);
    }
}
