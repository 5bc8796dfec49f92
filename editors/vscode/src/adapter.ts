// Starts the debug adapter of a session.

import * as vscode from 'vscode';
import type { Locator } from './locate';

/** What the adapter writes, for whoever looks for a mistake. */
export interface Logs {
    readonly program: vscode.Uri;
    readonly messages: vscode.Uri;
}

export class AdapterFactory implements vscode.DebugAdapterDescriptorFactory {
    constructor(private readonly locator: Locator, private readonly logs: Logs) {}

    async createDebugAdapterDescriptor(session: vscode.DebugSession): Promise<vscode.DebugAdapterDescriptor | undefined> {
        const { configuration, workspaceFolder } = session;
        if (configuration.request === 'attach' && configuration['child'] === undefined) {
            return new vscode.DebugAdapterServer(Number(configuration['port'] ?? 2345), String(configuration['host'] ?? '127.0.0.1'));
        }
        const program = await this.locator.get(workspaceFolder);
        if (program === undefined) {
            return undefined;
        }
        const settings = vscode.workspace.getConfiguration('kubedelve', workspaceFolder);
        const args = ['dap', '--log', this.logs.program.fsPath, '--log-level', settings.get<string>('logLevel', 'info')];
        if (settings.get<boolean>('logMessages', false)) {
            args.push('--log-dap', this.logs.messages.fsPath);
        }
        await vscode.workspace.fs.createDirectory(vscode.Uri.joinPath(this.logs.program, '..'));
        return new vscode.DebugAdapterExecutable(program.path, args, workspaceFolder === undefined ? {} : { cwd: workspaceFolder.uri.fsPath });
    }
}
