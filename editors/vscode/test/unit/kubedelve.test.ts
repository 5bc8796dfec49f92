import * as assert from 'node:assert/strict';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { CommandError, Kubedelve } from '../../src/kubedelve';

/** A program that does what a shell script says, and the arguments that it got. */
suite('commands of the program', () => {
    let dir: string;
    suiteSetup(async () => { dir = await mkdtemp(path.join(tmpdir(), 'kubedelve-')); });
    suiteTeardown(async () => { await rm(dir, { recursive: true }); });

    async function program(script: string): Promise<{ kubedelve: Kubedelve; args: () => Promise<string> }> {
        const file = path.join(dir, 'kubedelve');
        await writeFile(file, `#!/bin/sh\necho "$@" >"${dir}/args"\n${script}\n`);
        await chmod(file, 0o755);
        return { kubedelve: new Kubedelve(file, dir, () => undefined), args: async () => (await readFile(path.join(dir, 'args'), 'utf8')).trim() };
    }

    test('targets are read, and asked for where they are meant', async () => {
        const { kubedelve, args } = await program(`cat <<'E'
{"workloads":[{"target":"deploy/web","namespace":"store","replicas":2,"ready":1,"containers":[{"name":"app","default":true}],"debuggable":true}],
 "nodes":[{"name":"n1","components":[{"target":"node/n1:kubelet","name":"kubelet"}],"debuggable":false,"reason":"no rights"}],"notes":["a note"]}
E`);
        const { workloads: [web], nodes: [node], notes } = await kubedelve.targets({ context: 'dev', namespace: 'store' });
        assert.equal(await args(), 'targets --context dev --namespace store -o json');
        assert.equal(web?.containers[0]?.isDefault, true);
        assert.equal(node?.reason, 'no rights');
        assert.deepEqual(notes, ['a note']);
    });

    test('sessions are those of all namespaces if none is named', async () => {
        const { kubedelve, args } = await program('echo "[]"');
        assert.deepEqual(await kubedelve.sessions({ kubeconfig: '/k' }), []);
        assert.equal(await args(), 'status --kubeconfig /k --all-namespaces -o json');
    });

    test('a command that fails says why in its own words', async () => {
        const { kubedelve } = await program('echo "error: no cluster is configured" >&2; exit 1');
        await assert.rejects(kubedelve.contexts({}), (e: unknown) => e instanceof CommandError && e.message === 'no cluster is configured');
        await assert.rejects(kubedelve.doctor({}, '', ''), (e: unknown) => e instanceof CommandError && e.message === 'no cluster is configured');
    });

    test('doctor has something to say when not all is well', async () => {
        const { kubedelve } = await program(`echo '{"ok":false,"checks":[{"name":"go","ok":false,"text":"there is no go"}]}'; exit 1`);
        assert.deepEqual(await kubedelve.doctor({}, 'deploy/web', ''), [{ name: 'go', ok: false, text: 'there is no go' }]);
    });

    test('what is not as documented is an error that names it', async () => {
        const { kubedelve } = await program(`echo '{"version":1}'`);
        await assert.rejects(kubedelve.version(), /"version" is not a string/);
        const none = new Kubedelve(path.join(dir, 'none'), dir, () => undefined);
        await assert.rejects(none.version(), CommandError);
    });

    test('the steps of a restore are told', async () => {
        const { kubedelve, args } = await program('echo "deleting the pod" >&2; echo "restored"');
        const steps: string[] = [];
        await kubedelve.restore({ namespace: 'store' }, '1a2b3c4d', step => steps.push(step));
        assert.equal(await args(), 'restore 1a2b3c4d --namespace store');
        assert.deepEqual(steps.sort(), ['deleting the pod', 'restored']);
    });
});
