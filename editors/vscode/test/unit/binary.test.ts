import * as assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import * as path from 'node:path';
import { type Places, candidates, find, matches } from '../../src/binary';

suite('the program', () => {
    const places = (change: Partial<Places>): Places => ({ setting: '', folders: [], path: '', platform: 'linux', ...change });

    test('is looked for in the workspace, then in PATH', () => {
        assert.deepEqual(
            candidates(places({ folders: ['/a', '/b'], path: ['/usr/bin', '', 'relative'].join(path.delimiter) })),
            ['/a/bin/kubedelve', '/b/bin/kubedelve', '/usr/bin/kubedelve']);
    });

    test('is where the setting says and nowhere else', () => {
        assert.deepEqual(candidates(places({ setting: '/x/kd', folders: ['/a'], path: '/usr/bin' })), ['/x/kd']);
        assert.deepEqual(candidates(places({ setting: 'build/kd', folders: ['/a', '/b'] })), ['/a/build/kd', '/b/build/kd']);
        assert.deepEqual(candidates(places({ setting: '~/kd' })), [path.join(homedir(), 'kd')]);
    });

    test('has another name on Windows', () => {
        assert.deepEqual(candidates(places({ folders: ['/a'], platform: 'win32' })), ['/a/bin/kubedelve.exe']);
    });

    test('is a file that can be run', async () => {
        const dir = await mkdtemp(path.join(tmpdir(), 'kubedelve-'));
        try {
            const [folder, file, good] = ['folder', 'file', 'good'].map(name => path.join(dir, name, 'bin', 'kubedelve'));
            assert.ok(folder !== undefined && file !== undefined && good !== undefined);
            await mkdir(folder, { recursive: true });
            for (const [program, mode] of [[file, 0o644], [good, 0o755]] as const) {
                await mkdir(path.dirname(program), { recursive: true });
                await writeFile(program, '');
                await chmod(program, mode);
            }
            const folders = ['folder', 'file', 'good'].map(name => path.join(dir, name));
            assert.equal(await find(places({ folders })), good);
            assert.equal(await find(places({ folders: folders.slice(0, 2) })), undefined);
        } finally {
            await rm(dir, { recursive: true });
        }
    });

    test('fits if it is of the same minor version, or no release', () => {
        const cases: [string, boolean][] = [
            ['v0.1.0', true], ['0.1.7', true], ['v0.2.0', false], ['v1.1.0', false],
            ['devel', true], ['devel-0123456789ab', true], ['v0.3.1-0.20260101000000-0123456789ab', true],
        ];
        for (const [version, want] of cases) {
            assert.equal(matches(version, '0.1.2'), want, version);
        }
    });
});
