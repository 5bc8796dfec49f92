// What can be found and chosen by mouse: the views of targets and sessions, the pickers.

import * as assert from 'node:assert/strict';
import { patience, Workbench } from './page';
import { open, request, setting } from './surroundings';

suite('views and pickers', function () {
    this.timeout(2 * patience);
    this.bail(true); // each test goes on where the one before ended
    const namespace = setting('NAMESPACE');
    let workbench: Workbench, close: () => Promise<void>;

    suiteSetup(async () => {
        ({ workbench, close } = await open());
    });
    suiteTeardown(async () => {
        await workbench.shot('views-end');
        await close();
    });

    test('the view has namespaces, workloads and containers, nodes and components', async () => {
        await workbench.page.locator('.activitybar [aria-label="kubedelve"]').first().click();
        await workbench.expand('Targets', namespace);
        await workbench.expand('Targets', 'deploy/middle');
        await workbench.row('Targets', 'app').waitFor();
        await workbench.expand('Targets', 'Nodes');
        await workbench.row('Targets', /linux\//).first().waitFor();
    });

    test('its debug button asks for the program only, and the session is in the view', async () => {
        await workbench.press('Targets', 'deploy/middle', 'Debug a Workload');
        await workbench.pick('The program of deploy/middle', './middle');
        await workbench.says('now serves');
        await workbench.page.locator('.statusbar-item', { hasText: /deploy\/middle · middle-kubedelve-/ }).waitFor();
        await workbench.page.locator('.activitybar [aria-label="kubedelve"]').first().click();
        await workbench.row('Sessions', 'deploy/middle').waitFor();
        await workbench.shot('views');
    });

    test('the restore button of the session ends it', async () => {
        await workbench.press('Sessions', 'deploy/middle', 'Restore');
        await workbench.row('Sessions', 'deploy/middle').waitFor({ state: 'detached' });
        await workbench.ended();
        assert.equal(await request('item=tea&count=2'), 'front: 2 tea cost 12');
    });

    test('what a configuration leaves out is chosen from lists', async () => {
        await workbench.command('kubedelve: Debug a Workload…');
        await workbench.pick('The namespace', namespace);
        await workbench.pick('What to debug', 'deploy/front');
        await workbench.shot('picker');
        await workbench.pick('The program of deploy/front', './front');
        await workbench.says('now serves');
        await workbench.stop();
        assert.equal(await request('item=tea&count=2'), 'front: 2 tea cost 12');
    });
});
