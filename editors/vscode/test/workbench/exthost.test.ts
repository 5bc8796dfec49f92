// Has a workbench run the tests of test/exthost in its extension host, with the extension from its folder.

import * as assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import * as path from 'node:path';
import { patience, Workbench } from './page';
import { Server } from './server';
import { setting } from './surroundings';

suite('the extension host', function () {
    this.timeout(6 * patience);
    let server: Server | undefined, workbench: Workbench | undefined;

    suiteTeardown(async () => {
        await workbench?.close();
        await server?.stop();
    });

    test('passes its tests', async () => {
        const home = setting('HOME_DIR');
        const result = path.join(home, 'result.json');
        process.env['KUBEDELVE_VSCODE_RESULT'] = result;
        server = await Server.start(setting('CODE_SERVER'), home, undefined, { 'kubedelve.path': setting('PROGRAM') });
        workbench = await Workbench.start(path.join(home, 'chromium'), setting('WORKSPACE'), setting('SHOTS'));
        const code = await workbench.runTests(server.url, path.resolve(__dirname, '../../..'), path.resolve(__dirname, '../exthost/index.js'));
        const report = await readFile(result, 'utf8').catch(() => 'no test has run');
        assert.equal(code, 0, report);
        for (const { fullTitle, duration } of (JSON.parse(report) as { passes: { fullTitle: string; duration: number }[] }).passes) {
            console.log(`      ✔ ${fullTitle} (${duration}ms)`);
        }
    });
});
