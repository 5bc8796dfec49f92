// Loaded by the extension host, which calls run: the tests here use the interface of VS Code, and no screen.

import Mocha from 'mocha';
import * as path from 'node:path';

export async function run(): Promise<void> {
    const mocha = new Mocha({ ui: 'tdd', timeout: 180_000, bail: true, reporter: 'json', reporterOptions: { output: process.env['KUBEDELVE_VSCODE_RESULT'] } });
    mocha.addFile(path.join(__dirname, 'host.test.js'));
    const failures = await new Promise<number>(resolve => mocha.run(resolve));
    if (failures > 0) {
        throw new Error(`${failures} tests failed`);
    }
}
