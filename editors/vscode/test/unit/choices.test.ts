import * as assert from 'node:assert/strict';
import { containerChoices, contextChoices, lastFirst, programChoices, targetChoices } from '../../src/choices';

const labels = (choices: readonly { label: string }[]): string[] => choices.map(c => c.label);

suite('choices', () => {
    test('what was chosen last comes first', () => {
        const all = ['a', 'b', 'c'].map(label => ({ label, value: label }));
        assert.deepEqual(labels(lastFirst(all, 'b')), ['b', 'a', 'c']);
        assert.deepEqual(labels(lastFirst(all, 'gone')), ['a', 'b', 'c']);
    });

    test('the current context comes first', () => {
        assert.deepEqual(labels(contextChoices({ current: 'b', contexts: ['a', 'b'].map(name => ({ name, namespace: 'default' })) })), ['b', 'a']);
    });

    test('targets are what can be debugged, and this machine', () => {
        const workload = { namespace: 'store', replicas: 1, ready: 1, containers: [], reason: '' };
        assert.deepEqual(labels(targetChoices({
            workloads: [{ ...workload, target: 'deploy/web', debuggable: true }, { ...workload, target: 'deploy/win', debuggable: false }],
            nodes: [{ name: 'n1', platform: 'linux/amd64', debuggable: true, reason: '', components: [{ target: 'node/n1:kubelet', name: 'kubelet', version: '' }] }],
            notes: [],
        })), ['deploy/web', 'node/n1:kubelet', 'local']);
    });

    test('a container is asked for if there are several and none is the default', () => {
        const container = (name: string, isDefault = false): { name: string; image: string; isDefault: boolean } => ({ name, image: 'i', isDefault });
        assert.deepEqual(containerChoices([container('a')]), []);
        assert.deepEqual(containerChoices([container('a'), container('b', true)]), []);
        assert.deepEqual(labels(containerChoices([container('a'), container('b')])), ['a', 'b']);
    });

    test('the program with the name of the target comes first', () => {
        const programs = ['/w/cmd/api', '/w/cmd/web', '/elsewhere/x'].map(dir => ({ dir, importPath: dir }));
        assert.deepEqual(labels(programChoices(programs, '/w', 'deploy/web')), ['./cmd/web', './cmd/api', '/elsewhere/x']);
        assert.deepEqual(labels(programChoices(programs, '/w', 'node/n1:api')), ['./cmd/api', './cmd/web', '/elsewhere/x']);
    });
});
