// Puts the parts of the extension together; each does its work elsewhere.

import * as vscode from 'vscode';
import { AdapterFactory } from './adapter';
import { registerCommands } from './commands';
import { ConfigurationProvider } from './configuration';
import { Locator } from './locate';
import { Pickers, WorkspaceMemory } from './pickers';
import { SessionsView } from './sessions';
import { Members } from './shapes';
import { liveEvent, StatusBar } from './statusBar';
import { TargetsView } from './targets';

/** The type of launch configurations. */
const type = 'kubedelve';

export function activate(context: vscode.ExtensionContext): void {
    const log = vscode.window.createOutputChannel('kubedelve', { log: true });
    const version = new Members(context.extension.packageJSON, 'package.json').string('version');
    const locator = new Locator(version, log);
    const pickers = new Pickers(new WorkspaceMemory(context.workspaceState));
    const logs = {
        program: vscode.Uri.joinPath(context.logUri, 'kubedelve.log'),
        messages: vscode.Uri.joinPath(context.logUri, 'messages.log'),
    };
    const targets = new TargetsView(locator);
    const sessions = new SessionsView(locator, message => { sessionsTree.message = message; });
    const sessionsTree = vscode.window.createTreeView('kubedelve.sessions', { treeDataProvider: sessions });
    const provider = new ConfigurationProvider(type, locator, pickers);

    context.subscriptions.push(
        log,
        vscode.debug.registerDebugAdapterDescriptorFactory(type, new AdapterFactory(locator, logs)),
        vscode.debug.registerDebugConfigurationProvider(type, provider, vscode.DebugConfigurationProviderTriggerKind.Initial),
        vscode.debug.registerDebugConfigurationProvider(
            type,
            { provideDebugConfigurations: () => provider.provideDebugConfigurations() }, // what resolves is called of each one that is registered
            vscode.DebugConfigurationProviderTriggerKind.Dynamic,
        ),
        vscode.window.registerTreeDataProvider('kubedelve.targets', targets),
        sessionsTree,
        new StatusBar(type),
        registerCommands({ type, locator, pickers, targets, sessions, log, logs }),
        vscode.workspace.onDidChangeConfiguration(change => {
            if (change.affectsConfiguration('kubedelve.path')) {
                targets.refresh();
                sessions.refresh();
            }
        }),
        // The list of sessions is the cluster's, so it is read again when one has begun or ended.
        vscode.debug.onDidReceiveDebugSessionCustomEvent(({ session, event }) => {
            if (session.type === type && event === liveEvent) {
                sessions.refresh(contextOf(session));
            }
        }),
        vscode.debug.onDidTerminateDebugSession(session => {
            if (session.type === type) {
                sessions.refresh();
            }
        }),
    );
}

function contextOf(session: vscode.DebugSession): string | undefined {
    const target: unknown = session.configuration['target'];
    if (typeof target !== 'object' || target === null) {
        return undefined;
    }
    const { context } = target as { context?: unknown };
    return typeof context === 'string' ? context : undefined;
}
