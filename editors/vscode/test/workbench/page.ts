// What a user does in a workbench, by mouse and keyboard, and what they see.

import { readFile } from 'node:fs/promises';
import * as path from 'node:path';
import { type BrowserContext, type Locator, type Page, chromium } from 'playwright-core';

/** How long anything may take; the machine may be busy. */
export const patience = 90_000;

export class Workbench {
    private constructor(private readonly browser: BrowserContext, readonly page: Page, private readonly folder: string, private readonly shots: string) {}

    static async open(url: string, folder: string, profile: string, shots: string): Promise<Workbench> {
        const workbench = await Workbench.start(profile, folder, shots);
        try {
            await workbench.page.goto(`${url}/?folder=${encodeURIComponent(folder)}`);
            await workbench.page.locator('.explorer-folders-view .monaco-list-row').first().waitFor();
            return workbench;
        } catch (error) {
            await workbench.close();
            throw error;
        }
    }

    /** Starts a browser with an empty page. */
    static async start(profile: string, folder: string, shots: string): Promise<Workbench> {
        const browser = await chromium.launchPersistentContext(profile, {
            executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium', headless: true, viewport: { width: 1280, height: 800 },
            args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
        });
        const page = browser.pages()[0] ?? await browser.newPage();
        page.setDefaultTimeout(patience);
        return new Workbench(browser, page, folder, shots);
    }

    /**
     * Opens the workbench in the way in which VS Code tests itself in a browser: it loads the extension
     * of a folder, runs the tests of a module, and tells the page how they ended. Returns that exit code.
     */
    async runTests(url: string, extension: string, tests: string): Promise<number> {
        const ended = new Promise<number>(resolve => {
            void this.page.exposeFunction('codeAutomationExit', resolve);
        });
        await this.page.exposeFunction('codeAutomationLog', () => undefined);
        const remote = (file: string): string => `vscode-remote://${new URL(url).host}${file}`;
        const payload = JSON.stringify([['extensionDevelopmentPath', remote(extension)], ['extensionTestsPath', remote(tests)], ['skipWelcome', 'true']]);
        await this.page.goto(`${url}/?folder=${encodeURIComponent(this.folder)}&payload=${encodeURIComponent(payload)}`);
        return ended;
    }

    async close(): Promise<void> {
        await this.browser.close();
    }

    /** Makes a picture, as an artefact. */
    async shot(name: string): Promise<void> {
        await this.page.screenshot({ path: path.join(this.shots, `${name}.png`) });
    }

    /** Opens a file of the folder by its path, at the first line with the text. */
    async openFile(file: string, text: string): Promise<void> {
        const lines = (await readFile(path.join(this.folder, file), 'utf8')).split('\n');
        await this.quickOpen(`${file}:${lines.findIndex(line => line.includes(text)) + 1}`);
        // Files that were open before are offered until the search is done.
        const row = this.page.locator('.quick-input-list .monaco-list-row', { hasText: path.basename(file) }).filter({ hasText: path.dirname(file) });
        await row.first().click();
        await this.page.locator('.tab.active', { hasText: path.basename(file) }).waitFor();
        await this.line(text).waitFor();
    }

    /** Runs a command by its title. */
    async command(title: string): Promise<void> {
        await this.page.keyboard.press('F1');
        await this.input().fill(`>${title}`);
        const row = this.page.locator('.quick-input-list .monaco-list-row', { hasText: title }).first();
        await row.click();
    }

    /** The box of quick open, the palette and all pickers. */
    input(): Locator {
        return this.page.locator('.quick-input-widget:visible input').first();
    }

    /** Chooses in a picker, by mouse. */
    async pick(title: string, label: string | RegExp): Promise<void> {
        await this.page.locator('.quick-input-widget:visible').filter({ hasText: title }).waitFor();
        const row = this.page.locator('.quick-input-list .monaco-list-row', { hasText: label }).first();
        if (typeof label === 'string') {
            await this.input().fill(label); // lists are longer than what is on the screen
        }
        await row.click();
    }

    /** Toggles a breakpoint on the line with the text, and waits until it is seen. */
    async breakpoint(text: string): Promise<void> {
        await this.until(`a breakpoint at ${text}`, async () => {
            await this.line(text).click();
            await this.page.keyboard.press('F9'); // does nothing until all extensions are up
            await this.page.waitForTimeout(1000);
            return await this.page.locator('.glyph-margin-widgets .codicon-debug-breakpoint, .codicon-debug-breakpoint-unverified').count() > 0;
        });
    }

    /** The line of the editor with the text. */
    line(text: string): Locator {
        return this.page.locator('.monaco-editor .view-line', { hasText: text }).first();
    }

    /** Chooses a launch configuration, and presses F5. */
    async debug(configuration: string): Promise<void> {
        await this.page.keyboard.press('Control+P');
        await this.input().fill(`debug ${configuration}`);
        await this.page.locator('.quick-input-list .monaco-list-row', { hasText: configuration }).first().click();
    }

    /** Waits until a program is halted in a line with the text, and returns what is shown of it. */
    async halted(text: string): Promise<{ variables: string[]; stack: string[] }> {
        const top = this.page.locator('.monaco-editor .debug-top-stack-frame-line').first();
        await top.waitFor();
        let variables: string[] = [], stack: string[] = [];
        await this.until(`a halt at ${text}`, async () => {
            variables = await this.rows('.debug-variables');
            stack = await this.rows('.debug-call-stack');
            return variables.length > 1 && stack.length > 1 && await this.line(text).count() > 0;
        }, () => JSON.stringify({ variables, stack }));
        return { variables, stack };
    }

    /** Waits until a frame is shown in which a program is halted. */
    async frame(text: string): Promise<void> {
        await this.page.locator('.debug-viewlet .debug-call-stack .monaco-list-row', { hasText: text }).first().waitFor();
        await this.page.locator('.monaco-editor .debug-top-stack-frame-line').first().waitFor();
    }

    async rows(view: string): Promise<string[]> {
        return this.page.locator(`.debug-viewlet ${view} .monaco-list-row`).allInnerTexts();
    }

    /** A row of one of kubedelve's views. */
    row(view: string, text: string | RegExp): Locator {
        return this.page.locator(`.pane:has(.pane-header[aria-label^="${view}"]) .monaco-list-row`, { hasText: text });
    }

    /** Opens a row of a tree, by mouse. */
    async expand(view: string, text: string): Promise<void> {
        const row = this.row(view, text).first();
        await row.waitFor();
        await this.until(`${text} to open`, async () => {
            if (await row.getAttribute('aria-expanded') === 'true') {
                return true;
            }
            await row.locator('.monaco-tl-twistie').click({ force: true });
            return false;
        });
    }

    /** Clicks a button that a row has while the mouse is over it. */
    async press(view: string, text: string, title: string): Promise<void> {
        const row = this.row(view, text).first();
        await row.hover();
        await row.locator(`.actions [aria-label^="${title}"]`).click();
    }

    /** Chooses from the menu of a row, by mouse. */
    async menu(view: string, text: string, title: string): Promise<void> {
        await this.row(view, text).first().click({ button: 'right' });
        await this.page.locator('.monaco-menu .action-item', { hasText: title }).first().click();
    }

    /** Types into the box that asks for a text. */
    async answer(title: string, text: string): Promise<void> {
        await this.page.locator('.quick-input-widget:visible').filter({ hasText: title }).waitFor();
        await this.input().fill(text);
        await this.page.keyboard.press('Enter');
    }

    /** Waits for a notification with the text. */
    async notifies(text: string): Promise<void> {
        await this.page.locator('.notifications-toasts .notification-list-item', { hasText: text }).first().waitFor();
    }

    /** Waits until a session that was attached to can be left. */
    async attached(): Promise<void> {
        await this.toolbarButton('Disconnect').waitFor();
    }

    /** Stops what is debugged, and waits for its end. */
    async stop(): Promise<void> {
        await this.showDebug();
        await this.toolbar('Stop');
        await this.ended();
    }

    /** Shows the view of the debug sessions, which VS Code does by itself when one begins. */
    private async showDebug(): Promise<void> {
        const icon = this.page.locator('.activitybar .action-item', { has: this.page.locator('[aria-label^="Run and Debug"]') }).first();
        await this.until('the view of the debug sessions', async () => {
            if (await this.toolbarButton('Stop').isVisible()) {
                return true;
            }
            if (!/\bchecked\b/.test(await icon.getAttribute('class') ?? '')) {
                await icon.click(); // of the view that is shown, it would hide that
                await this.page.waitForTimeout(1000);
            }
            return false;
        });
    }

    /** Clicks a button of the debug toolbar. */
    async toolbar(title: string): Promise<void> {
        await this.toolbarButton(title).click();
    }

    /** Waits until no session is debugged any more. */
    async ended(): Promise<void> {
        await this.toolbarButton('Stop').waitFor({ state: 'detached' });
        await this.toolbarButton('Disconnect').waitFor({ state: 'detached' });
    }

    /** The toolbar is docked at the top of the side bar. */
    private toolbarButton(title: string): Locator {
        return this.page.locator(`.part.sidebar .title .action-item [aria-label^="${title}"]`).first();
    }

    /** Waits until the debug console has a line with the text; it shows the last ones only. */
    async says(text: string): Promise<void> {
        await this.page.locator('.repl .monaco-list-row', { hasText: text }).first().waitFor();
    }

    async clearConsole(): Promise<void> {
        await this.page.locator('.part.panel [aria-label^="Clear Console"]').first().click();
        await this.page.locator('.repl .monaco-list-row').first().waitFor({ state: 'detached' });
    }

    async until(what: string, done: () => Promise<boolean>, state: () => string = () => ''): Promise<void> {
        const deadline = Date.now() + patience;
        while (!await done()) {
            if (Date.now() > deadline) {
                throw new Error(`${what} did not come: ${state()}`);
            }
            await this.page.waitForTimeout(200);
        }
    }

    private async quickOpen(text: string): Promise<void> {
        await this.page.keyboard.press('Control+P');
        await this.input().fill(text);
    }
}
