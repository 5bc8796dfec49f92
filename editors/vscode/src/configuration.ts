// Makes a launch configuration complete before a session begins with it.

import * as vscode from 'vscode';
import { type Locator, messageOf } from './locate';
import { type Pickers, type Target, Cancelled } from './pickers';

export class ConfigurationProvider implements vscode.DebugConfigurationProvider {
    constructor(private readonly type: string, private readonly locator: Locator, private readonly pickers: Pickers) {}

    /** What is offered where there is no launch.json, too: everything is asked for. */
    provideDebugConfigurations(): vscode.DebugConfiguration[] {
        return [{ type: this.type, request: 'launch', name: 'Debug on Kubernetes…' }];
    }

    /** F5 without a launch.json comes with nothing. */
    resolveDebugConfiguration(_: vscode.WorkspaceFolder | undefined, configuration: Partial<vscode.DebugConfiguration>): vscode.DebugConfiguration {
        return { ...configuration, type: this.type, request: configuration.request ?? 'launch', name: configuration.name ?? 'Debug on Kubernetes' };
    }

    async resolveDebugConfigurationWithSubstitutedVariables(folder: vscode.WorkspaceFolder | undefined, configuration: vscode.DebugConfiguration): Promise<vscode.DebugConfiguration | undefined> {
        if (configuration['child'] !== undefined || configuration.request !== 'launch') {
            // kubedelve's own, for a further process of a session; or nothing to be asked
            return configuration;
        }
        const program = await this.locator.get(folder);
        if (program === undefined) {
            return undefined;
        }
        try {
            const target = withSettings(await this.pickers.target(program, targetOf(configuration['target'])), folder);
            const settings = vscode.workspace.getConfiguration('kubedelve', folder);
            return {
                hotReload: settings.get<string>('hotReload', 'onSave'),
                sessionEvents: true,
                ...configuration,
                target,
                program: configuration['program'] as unknown ?? await this.pickers.program(program, folder ?? vscode.workspace.workspaceFolders?.[0], target.name ?? ''),
            };
        } catch (error) {
            if (!(error instanceof Cancelled)) {
                void vscode.window.showErrorMessage(messageOf(error));
            }
            return undefined;
        }
    }
}

/** The attribute, which may be a string. What else it may be, kubedelve itself refuses. */
export function targetOf(value: unknown): Target {
    if (typeof value === 'string') {
        return { name: value };
    }
    return typeof value === 'object' && value !== null ? value as Target : {};
}

function withSettings(target: Target, folder: vscode.WorkspaceFolder | undefined): Target {
    const agentImage = vscode.workspace.getConfiguration('kubedelve', folder).get<string>('agentImage', '');
    return agentImage === '' ? target : { agentImage, ...target };
}
