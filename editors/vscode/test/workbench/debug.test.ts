// From F5 to the end of a session, as a user does it, in a real workbench on a real cluster.

import * as assert from 'node:assert/strict';
import { patience, Workbench } from './page';
import { open, request } from './surroundings';

suite('the workbench', function () {
    this.timeout(2 * patience);
    this.bail(true); // each test goes on where the one before ended
    let workbench: Workbench, close: () => Promise<void>;

    suiteSetup(async () => {
        ({ workbench, close } = await open());
    });
    suiteTeardown(async () => {
        await workbench.shot('end');
        await close();
    });

    test('F5 and a request stop at the breakpoint', async () => {
        await workbench.openFile('middle/main.go', '// BREAKPOINT');
        await workbench.breakpoint('// BREAKPOINT');
        await workbench.debug('middle');
        await workbench.says('now serves');
        await stopsWith('12');
        await workbench.shot('halted');
        await goesOn('front: 2 tea cost 12');
    });

    test('a save swaps the new code in, in the same session', async () => {
        await workbench.line('total := piece * order.Count').click();
        await workbench.page.keyboard.press('End');
        await workbench.page.keyboard.type(' + 1000');
        await workbench.page.keyboard.press('Control+S');
        await workbench.says('swapped in');
        await stopsWith('1012');
        await goesOn('front: 2 tea cost 1012');
    });

    test('the restart button swaps, too', async () => {
        await workbench.clearConsole();
        await workbench.toolbar('Restart');
        await workbench.says('swapped in');
        await stopsWith('1012');
        await goesOn('front: 2 tea cost 1012');
    });

    test('the stop button brings the original back', async () => {
        await workbench.toolbar('Stop');
        await workbench.ended();
        assert.equal(await request('item=tea&count=2'), 'front: 2 tea cost 12');
    });

    let answer: Promise<string> | undefined;

    /** Sends a request, and checks what is shown when it comes to the breakpoint. */
    async function stopsWith(total: string): Promise<void> {
        answer = request('item=tea&count=2');
        const { variables, stack } = await workbench.halted('// BREAKPOINT');
        assert.ok(variables.some(v => new RegExp(`^total\\b.*\\b${total}$`, 's').test(v)), JSON.stringify(variables));
        assert.ok(stack.some(f => f.includes('main.priceOf')), JSON.stringify(stack));
    }

    async function goesOn(text: string): Promise<void> {
        await workbench.page.keyboard.press('F5');
        assert.equal(await answer, text);
    }
});
