// What the Go test that starts these tests gives them: see internal/e2e/vscode_test.go.

export function setting(name: string): string {
    const value = process.env[`KUBEDELVE_VSCODE_${name}`];
    if (value === undefined) {
        throw new Error(`KUBEDELVE_VSCODE_${name} is not set: run make test-vscode`);
    }
    return value;
}

/** Sends a request to the sample's first tier; it is answered when nothing is halted any more. */
export async function request(query: string): Promise<string> {
    const response = await fetch(`${setting('CLUSTER')}/buy?${query}`);
    return (await response.text()).trim();
}
