// Finds the program for this workspace, and tells the user when there is none that fits.

import * as vscode from 'vscode';
import { find, matches } from './binary';
import { Kubedelve } from './kubedelve';

const choose = 'Choose the Program…';
const install = 'How to Install';
const anyway = 'Use It Anyway';

export class Locator {
    /** Programs of another version that the user wants all the same, for as long as the window is open. */
    private readonly accepted = new Set<string>();

    constructor(private readonly version: string, private readonly log: vscode.LogOutputChannel) {}

    /** The program, or undefined after the user has been told why there is none. */
    async get(folder?: vscode.WorkspaceFolder): Promise<Kubedelve | undefined> {
        const program = await this.quietly(folder);
        if (program === undefined) {
            const setting = this.setting(folder);
            const where = setting === '' ? 'in bin/ of the workspace or in PATH' : `at ${setting}, where the setting kubedelve.path says that it is`;
            await this.complain(`There is no program kubedelve ${where}.`, [choose, install]);
            return undefined;
        }
        return await this.fits(program) ? program : undefined;
    }

    /** As get, but says nothing, and takes any version: for what nobody has asked for. */
    async quietly(folder = vscode.workspace.workspaceFolders?.[0]): Promise<Kubedelve | undefined> {
        const file = await find({
            setting: this.setting(folder),
            folders: (vscode.workspace.workspaceFolders ?? []).map(f => f.uri.fsPath),
            path: process.env['PATH'] ?? '',
            platform: process.platform,
        });
        return file === undefined ? undefined : new Kubedelve(file, folder?.uri.fsPath, line => { this.log.debug(line); });
    }

    private setting(folder?: vscode.WorkspaceFolder): string {
        return vscode.workspace.getConfiguration('kubedelve', folder).get<string>('path', '').trim();
    }

    private async fits(program: Kubedelve): Promise<boolean> {
        if (this.accepted.has(program.path)) {
            return true;
        }
        try {
            const { version } = await program.version();
            if (matches(version, this.version)) {
                return true;
            }
            const answer = await this.complain(`${program.path} is kubedelve ${version}; this extension is made for ${this.version}.`, [choose, install, anyway]);
            if (answer !== anyway) {
                return false;
            }
            this.accepted.add(program.path);
            return true;
        } catch (error) {
            await this.complain(`${program.path} does not work: ${messageOf(error)}`, [choose, install]);
            return false;
        }
    }

    private async complain(message: string, buttons: string[]): Promise<string | undefined> {
        this.log.error(message);
        const answer = await vscode.window.showErrorMessage(message, ...buttons);
        if (answer === choose) {
            await this.choose();
        } else if (answer === install) {
            await vscode.env.openExternal(vscode.Uri.parse('https://github.com/kubedelve/kubedelve#install'));
        }
        return answer;
    }

    private async choose(): Promise<void> {
        const [file] = await vscode.window.showOpenDialog({ title: 'The program kubedelve', openLabel: 'Use' }) ?? [];
        if (file !== undefined) {
            await vscode.workspace.getConfiguration('kubedelve').update('path', file.fsPath, vscode.ConfigurationTarget.Global);
        }
    }
}

export function messageOf(error: unknown): string {
    return error instanceof Error ? error.message : String(error);
}
