#!/usr/bin/env bash
# Installs what "make test-vscode" shows the extension in: code-server, which is the
# workbench and the extension host of VS Code, into DIR. Usage: install.sh DIR
#
# Everything comes from the npm registry and the distribution's packages; no prebuilt
# binary is downloaded. It takes Node 20, its headers, a C++ compiler, Python, ripgrep and Chromium
# (Debian: apt-get install chromium ripgrep libkrb5-dev libxkbfile-dev libsecret-1-dev g++ make python3).
set -euo pipefail

version=4.100.3 # the newest that runs on Node 20
dir=$(realpath -m "$1")
server=$dir/node_modules/code-server
editor=$server/lib/vscode

if [[ -f $dir/installed && $(<"$dir/installed") == "$version" ]]; then
    exit
fi
for tool in node npm g++ make python3 rg chromium; do
    command -v "$tool" >/dev/null || { echo "there is no $tool: see $0" >&2; exit 1; }
done
rm -f "$dir/installed"
mkdir -p "$dir"

# Scripts of packages would download binaries: what matters of them is done below.
quiet=(--ignore-scripts --no-audit --no-fund --loglevel=error)
npm install --prefix "$dir" "${quiet[@]}" "code-server@$version"
(cd "$editor" && npm install --omit=dev "${quiet[@]}")
(cd "$editor/extensions" && npm install --omit=dev "${quiet[@]}")
mkdir -p "$editor/node_modules/@vscode/ripgrep/bin"
ln -sf "$(command -v rg)" "$editor/node_modules/@vscode/ripgrep/bin/rg"
ln -sfn node_modules "$editor/node_modules.asar"

# Native modules, against the headers that came with this Node, if they did.
gyp=$(dirname "$(realpath "$(command -v npm)")")/../node_modules/node-gyp/bin/node-gyp.js
prefix=$(dirname "$(dirname "$(realpath "$(command -v node)")")")
headers=()
[[ -d $prefix/include/node ]] && headers=("--nodedir=$prefix")
compile() {
    [[ -n $(find "$1/build/Release" -name '*.node' 2>/dev/null) ]] && return
    (cd "$1" && JOBS=2 node "$gyp" rebuild "${headers[@]}" >"$dir/$(basename "$1").log" 2>&1) ||
        { echo "$1 does not compile: see $dir/$(basename "$1").log" >&2; exit 1; }
}
for module in @vscode/spdlog native-watchdog node-pty; do
    compile "$editor/node_modules/$module"
done
# This one finds its compiler by itself.
(cd "$dir" && npm_config_nodedir=$prefix npm rebuild argon2 --build-from-source --foreground-scripts >"$dir/argon2.log" 2>&1) ||
    { echo "argon2 does not compile: see $dir/argon2.log" >&2; exit 1; }

node "$server/out/node/entry.js" --config "$dir/config.yaml" --version >&2
echo "$version" >"$dir/installed"
