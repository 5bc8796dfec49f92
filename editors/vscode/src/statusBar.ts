// The status bar's item of the session that the user looks at: what is debugged, where, and how the last swap went.

import * as vscode from 'vscode';
import { Members } from './shapes';

/** The body of kubedelve's event kubedelveSession. */
export interface Live {
    readonly name: string;
    readonly place: string;
    readonly swaps: number;
    /** In seconds; 0 before the first swap. */
    readonly lastSwap: number;
}

export const liveEvent = 'kubedelveSession';

export function readLive(body: unknown): Live {
    const m = new Members(body, liveEvent);
    return { name: m.string('name'), place: m.string('place'), swaps: m.number('swaps'), lastSwap: m.number('lastSwap', 0) };
}

/** What of a session stands in the status bar. */
export function describe(live: Live): string {
    const pod = /^pod (?<name>[^,]+)/.exec(live.place)?.groups?.['name'];
    const swaps = live.swaps === 0 ? '' : `${live.swaps} ${live.swaps === 1 ? 'swap' : 'swaps'}, last ${live.lastSwap.toFixed(1)} s`;
    return [live.name, pod ?? live.place, swaps].filter(text => text !== '').join(' · ');
}

export class StatusBar implements vscode.Disposable {
    private readonly item = vscode.window.createStatusBarItem('session', vscode.StatusBarAlignment.Left);
    private readonly live = new Map<string, Live>(); // by the id of the debug session
    private readonly subscriptions: vscode.Disposable;

    constructor(private readonly type: string) {
        this.item.name = 'kubedelve';
        this.item.command = 'kubedelve.showSessions';
        this.subscriptions = vscode.Disposable.from(
            this.item,
            vscode.debug.onDidReceiveDebugSessionCustomEvent(({ session, event, body }) => {
                if (session.type === this.type && event === liveEvent) {
                    this.live.set(session.id, readLive(body));
                    this.show();
                }
            }),
            vscode.debug.onDidChangeActiveDebugSession(() => { this.show(); }),
            vscode.debug.onDidTerminateDebugSession(session => {
                this.live.delete(session.id);
                this.show();
            }),
        );
    }

    dispose(): void {
        this.subscriptions.dispose();
    }

    /** Shows the active session, else the last one that has begun. */
    private show(): void {
        const live = this.live.get(vscode.debug.activeDebugSession?.id ?? '') ?? [...this.live.values()].pop();
        if (live === undefined) {
            this.item.hide();
            return;
        }
        this.item.text = `$(debug-alt) ${describe(live)}`;
        this.item.tooltip = `${live.name} runs under kubedelve in ${live.place}. Click for all sessions.`;
        this.item.show();
    }
}
