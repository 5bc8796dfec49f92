// The view of the debug sessions in the cluster, whoever began them, and their end.

import * as vscode from 'vscode';
import { CommandError, type Kubedelve } from './kubedelve';
import { type Locator, messageOf } from './locate';
import type { Session } from './shapes';

/** A session, and the context in which it was found. */
export interface Found {
    readonly context: string;
    readonly session: Session;
}

export class SessionsView implements vscode.TreeDataProvider<Found> {
    private readonly changed = new vscode.EventEmitter<undefined>();
    readonly onDidChangeTreeData = this.changed.event;
    /** Contexts in which a session was begun from here: those are looked into besides the current one. */
    private readonly contexts = new Set<string>();

    constructor(private readonly locator: Locator, private readonly say: (message: string) => void) {}

    refresh(context?: string): void {
        if (context !== undefined) {
            this.contexts.add(context);
        }
        this.changed.fire(undefined);
    }

    getTreeItem({ context, session }: Found): vscode.TreeItem {
        const tree = new vscode.TreeItem(session.target);
        tree.description = [session.namespace, session.owner, age(session.created)].join(' · ');
        tree.tooltip = `session ${session.id} in context ${context}\npod ${session.pod}\nsince ${session.created.toLocaleString()}`;
        tree.iconPath = new vscode.ThemeIcon('debug-alt');
        tree.contextValue = 'session';
        return tree;
    }

    async getChildren(): Promise<Found[]> {
        const program = await this.locator.quietly();
        if (program === undefined) {
            return [];
        }
        try {
            const found = await this.list(program);
            this.say('');
            return found;
        } catch (error) {
            this.say(messageOf(error));
            return [];
        }
    }

    /** The sessions of all contexts that matter. */
    async list(program: Kubedelve): Promise<Found[]> {
        const { current, contexts } = await program.contexts({});
        const wanted = contexts.filter(c => c.name === current || this.contexts.has(c.name));
        const found = await Promise.allSettled(wanted.map(async ({ name, namespace }) => {
            const sessions = await program.sessions({ context: name }).catch((error: unknown) => {
                if (error instanceof CommandError) {
                    return program.sessions({ context: name, namespace }); // who may not see all may see this
                }
                throw error;
            });
            return sessions.map(session => ({ context: name, session }));
        }));
        const failed = found.find(answer => answer.status === 'rejected');
        if (failed !== undefined && found.every(answer => answer.status === 'rejected')) {
            throw failed.reason; // a cluster that does not answer hides no other's
        }
        return found.flatMap(answer => answer.status === 'fulfilled' ? answer.value : []);
    }
}

/** Ends a session, with its progress shown. */
export async function restore(program: Kubedelve, { context, session }: Found): Promise<void> {
    const title = `Restoring ${session.target}`;
    await vscode.window.withProgress({ location: vscode.ProgressLocation.Notification, title }, async progress => {
        await program.restore({ context, namespace: session.namespace }, session.id, message => { progress.report({ message }); });
    });
}

function age(since: Date): string {
    const seconds = Math.max(0, Math.round((Date.now() - since.getTime()) / 1000));
    const [count, unit] = seconds < 60 ? [seconds, 's'] : seconds < 3600 ? [seconds / 60, 'min'] : [seconds / 3600, 'h'];
    return `${Math.floor(count)} ${unit}`;
}
