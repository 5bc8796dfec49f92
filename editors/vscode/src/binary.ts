// Which kubedelve is run. Knows nothing of VS Code.

import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import * as path from 'node:path';

/** Where the program may be. */
export interface Places {
    /** The setting kubedelve.path; empty if it is not set. */
    readonly setting: string;
    /** The folders of the workspace, absolute. */
    readonly folders: readonly string[];
    /** The variable PATH. */
    readonly path: string;
    readonly platform: NodeJS.Platform;
}

/**
 * The places that are looked at, in order. What the user has set is the only one: another program
 * than the one asked for would surprise.
 */
export function candidates(places: Places): string[] {
    const name = places.platform === 'win32' ? 'kubedelve.exe' : 'kubedelve';
    if (places.setting !== '') {
        return settingPaths(places);
    }
    return [
        ...places.folders.map(folder => path.join(folder, 'bin', name)),
        ...places.path.split(path.delimiter).filter(dir => path.isAbsolute(dir)).map(dir => path.join(dir, name)),
    ];
}

/** A setting may begin with ~, or be relative to a folder of the workspace. */
function settingPaths(places: Places): string[] {
    const setting = places.setting.replace(/^~(?=$|[/\\])/, homedir());
    return path.isAbsolute(setting) ? [setting] : places.folders.map(folder => path.resolve(folder, setting));
}

/** The first candidate that can be run. */
export async function find(places: Places): Promise<string | undefined> {
    for (const candidate of candidates(places)) {
        if (await executable(candidate)) {
            return candidate;
        }
    }
    return undefined;
}

async function executable(file: string): Promise<boolean> {
    try {
        await access(file, constants.X_OK);
        return (await stat(file)).isFile();
    } catch {
        return false; // it is looked for elsewhere
    }
}

/**
 * Says whether the program goes with this extension: releases of the same minor version do, and
 * builds that are no release, which are their builder's business.
 */
export function matches(program: string, extension: string): boolean {
    const release = /^v?(\d+\.\d+)\.\d+$/;
    const ofProgram = release.exec(program);
    return ofProgram === null || ofProgram[1] === release.exec(extension)?.[1];
}
