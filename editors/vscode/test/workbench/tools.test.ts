// What there is besides launch configurations: the container picker, doctor, attaching to a session that
// a terminal holds, and the logs.

import * as assert from 'node:assert/strict';
import { patience, Workbench } from './page';
import { type Held, hold, open, request, sessions, setting } from './surroundings';

suite('commands', function () {
    this.timeout(2 * patience);
    this.bail(true); // each test goes on where the one before ended
    const namespace = setting('NAMESPACE');
    let workbench: Workbench, close: () => Promise<void>, held: Held | undefined;

    suiteSetup(async () => {
        ({ workbench, close } = await open());
        await workbench.page.locator('.activitybar [aria-label="kubedelve"]').first().click();
        await workbench.expand('Targets', namespace);
        await workbench.expand('Targets', 'deploy/middle');
    });
    suiteTeardown(async () => {
        try {
            await workbench.shot('commands-end');
        } finally {
            await held?.end();
            await close();
        }
    });

    test('doctor, from the menu of a workload, asks for the container and says what it found', async () => {
        await workbench.menu('Targets', 'deploy/middle', 'Check Whether It Can Be Debugged');
        await workbench.pick('The container of deploy/middle', 'app');
        await workbench.notifies('deploy/middle can be debugged.');
        await workbench.shot('doctor');
    });

    test('the debug button of a container asks for the program only', async () => {
        await workbench.press('Targets', 'app', 'Debug a Workload');
        await workbench.pick('The program of deploy/middle', './middle');
        await workbench.says('now serves');
        await workbench.stop();
        await nothingLeft();
    });

    test('that of a workload asks for the container, too', async () => {
        await workbench.page.locator('.activitybar [aria-label="kubedelve"]').first().click();
        await workbench.press('Targets', 'deploy/middle', 'Debug a Workload');
        await workbench.pick('The container of deploy/middle', 'app');
        await workbench.pick('The program of deploy/middle', './middle');
        await workbench.says('now serves');
        await workbench.stop();
        await nothingLeft();
    });

    test('attaching to a session stops at a breakpoint, and leaving it lets it go on', async () => {
        held = await hold('deploy/middle', './middle', '-c', 'app');
        await workbench.openFile('middle/main.go', '// BREAKPOINT');
        await workbench.breakpoint('// BREAKPOINT');
        await workbench.command('kubedelve: Attach to a Session…');
        await workbench.answer('Attach to a session', held.address);
        await workbench.attached();
        const answer = request('item=tea&count=2');
        const { variables, stack } = await workbench.halted('// BREAKPOINT');
        assert.ok(variables.some(v => /^total\b.*\b12$/s.test(v)), JSON.stringify(variables));
        assert.ok(stack.some(f => f.includes('main.priceOf')), JSON.stringify(stack));
        await workbench.toolbar('Disconnect');
        await workbench.ended();
        assert.equal(await answer, 'front: 2 tea cost 12');
        assert.equal(await request('item=tea&count=2'), 'front: 2 tea cost 12');
        assert.deepEqual(await sessions(), ['deploy/middle']);
        await held.end();
        await nothingLeft();
    });

    test('the log of the sessions is a file that opens', async () => {
        await workbench.command('kubedelve: Open Log…');
        await workbench.pick('Open a log', 'Program');
        await workbench.page.locator('.tab.active', { hasText: 'kubedelve.log' }).waitFor();
        await workbench.page.locator('.monaco-editor .view-line', { hasText: 'deploy/middle' }).first().waitFor();
    });

    async function nothingLeft(): Promise<void> {
        let left: string[] = [];
        await workbench.until('the end of all sessions', async () => (left = await sessions()).length === 0, () => left.join(', '));
        assert.equal(await request('item=tea&count=2'), 'front: 2 tea cost 12');
    }
});
