// A compound: two services debugged at once, begun and stopped together.

import * as assert from 'node:assert/strict';
import { patience, Workbench } from './page';
import { open, request, serving, sessions } from './surroundings';

suite('a compound', function () {
    this.timeout(3 * patience);
    this.bail(true); // each test goes on where the one before ended
    let workbench: Workbench, close: () => Promise<void>;

    suiteSetup(async () => {
        ({ workbench, close } = await open());
    });
    suiteTeardown(async () => {
        await workbench.shot('compound-end');
        await close();
    });

    test('one request stops in both services', async () => {
        await workbench.openFile('middle/main.go', '// BREAKPOINT');
        await workbench.breakpoint('// BREAKPOINT');
        await workbench.openFile('front/main.go', 'defer resp.Body.Close()');
        await workbench.breakpoint('defer resp.Body.Close()');
        await workbench.debug('both tiers');
        let there: string[] = [];
        await workbench.until('debug pods to serve both', async () => (there = await serving()).length === 2, () => there.join(', '));
        const answer = request('item=tea&count=2');
        const middle = await workbench.halted('// BREAKPOINT');
        assert.ok(middle.variables.some(v => /^total\b.*\b12$/s.test(v)), JSON.stringify(middle.variables));
        await workbench.shot('compound');
        await workbench.page.keyboard.press('F5');
        await workbench.frame('main.main.func1'); // the other session's, which VS Code turns to by itself
        await workbench.page.keyboard.press('F5');
        assert.equal(await answer, 'front: 2 tea cost 12');
    });

    test('the stop button brings both originals back', async () => {
        await workbench.toolbar('Stop');
        await workbench.ended();
        // VS Code does not wait for the second; it is restored all the same.
        let left: string[] = [];
        await workbench.until('the end of both sessions', async () => (left = await sessions()).length === 0, () => left.join(', '));
        assert.equal(await request('item=tea&count=2'), 'front: 2 tea cost 12');
    });
});
