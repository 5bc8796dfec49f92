# Every target also works without make: it is the lines below it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.DEFAULT_GOAL := build

# The release is a tag; every other build says what Go knows of it.
RELEASE := $(shell git describe --tags --exact-match --dirty --match 'v[0-9]*' 2>/dev/null)
LDFLAGS := -s -w$(if $(RELEASE), -X github.com/kubedelve/kubedelve/internal/version.release=$(RELEASE))
ARCH    := $(shell go env GOARCH)

# Programs are built without cgo, and so is all that only looks at the code: one
# set of compiled packages serves them all. (A build that is the same on every
# machine: make build GOFLAGS=-trimpath.)
NOCGO := CGO_ENABLED=0
LINT  := $(NOCGO) go tool -modfile=$(CURDIR)/internal/tools/go.mod golangci-lint

# Modules of their own: the test cluster, what runs in it, and the linter.
NESTED  := testdata/cluster testdata/shop
MODULES := . $(NESTED) testdata/cluster/kube testdata/runc testdata/cni internal/tools

##@ Use

.PHONY: build
build: ## kubedelve, kubectl-delve and the agents for linux/amd64 and linux/arm64, in bin/
	@mkdir -p bin
	$(NOCGO) go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/kubedelve
	$(NOCGO) GOOS=linux GOARCH=amd64 go build -ldflags '$(LDFLAGS)' -o bin/kubedelve-agent-linux-amd64 ./cmd/kubedelve-agent
	$(NOCGO) GOOS=linux GOARCH=arm64 go build -ldflags '$(LDFLAGS)' -o bin/kubedelve-agent-linux-arm64 ./cmd/kubedelve-agent
	ln -sf kubedelve-agent-linux-$(ARCH) bin/kubedelve-agent
	ln -sf kubedelve bin/kubectl-delve

.PHONY: demo
demo: ## from F5 to a breakpoint in a pod, on a cluster made for it (Linux, root)
	$(NOCGO) go build -o bin/kubedelve-demo ./internal/demo
	bin/kubedelve-demo $(DEMOFLAGS)

##@ Check

.PHONY: test
test: check lint unit integration ## everything: as CI does

.PHONY: check
check: ## gofmt, go mod tidy, go vet
	@unformatted=$$(find . -name node_modules -prune -o -name '*.go' -print | xargs gofmt -s -l); [[ -z $$unformatted ]] || { echo "not formatted (make fmt): $$unformatted" >&2; exit 1; }
	for m in $(MODULES); do go -C $$m mod tidy -diff; done
	for m in . $(NESTED); do $(NOCGO) go -C $$m vet -tags integration,vscode,editors ./...; done

.PHONY: lint
lint: ## golangci-lint, at the version that internal/tools/go.mod pins
	for m in . $(NESTED); do (cd $$m && $(LINT) run --config $(CURDIR)/.golangci.yml ./...); done

.PHONY: unit
unit: ## unit tests, with the race detector
	race=$$(.ci/race) && go test $$race ./... && go -C testdata/cluster test $$race ./...

.PHONY: integration
integration: ## end-to-end tests on a real cluster (Linux and root, or KUBECONFIG)
	go -C testdata/cluster test -tags integration -count=1 -timeout 20m -v . | .ci/noskip
	go test -tags integration -count=1 -timeout 60m -skip '$(NODES)' -v ./internal/e2e | .ci/noskip

# These compile a kubelet, the control plane and etcd, which takes half an hour of a core the first time.
NODES := ^TestIntegrationNode(Process|Unit|Static)$$

.PHONY: test-nodes
test-nodes: ## services of nodes, end to end: breakpoints in a kubelet, on both flavours of the cluster, and in the control plane and etcd
	go test -tags integration -count=1 -timeout 150m -run '$(NODES)' -v ./internal/e2e | .ci/noskip

.PHONY: test-long
test-long: ## the end-to-end tests that "make test" cuts short, at full length, and a kubelet and a controller manager halted for ten minutes
	KUBEDELVE_TEST_LONG=1 go test -tags integration -count=1 -timeout 60m -run 'Edits|Cuts|KillAfterEachWrite|NodeOneShot$$' -v ./internal/e2e | .ci/noskip
	KUBEDELVE_TEST_HALT=10m go test -tags integration -count=1 -timeout 60m -v -run 'TestIntegrationNode(Process|Unit)/kubelet/breakpoints|TestIntegrationNodeStatic/kube-controller-manager/breakpoints' ./internal/e2e | .ci/noskip

.PHONY: test-editors
test-editors: ## Neovim, Vim, Emacs and Helix with what "kubedelve init" writes, and kubedelve attach, in tmux on a cluster (CONTRIBUTING.md says what it takes)
	go test -tags 'integration editors' -count=1 -timeout 40m -run 'Editors|InTmux' -v ./internal/e2e | .ci/noskip

.PHONY: fmt
fmt: ## format all Go files, imports in order
	for m in . $(NESTED); do (cd $$m && $(LINT) fmt --config $(CURDIR)/.golangci.yml ./...); done

.PHONY: docs
docs: ## write the generated parts of docs/ anew
	go test ./dapserver ./cmd/kubedelve -run 'TestReference' -args -update

.PHONY: bench
bench: ## benchmarks, and what kubedelve adds to each kind of request (BENCHFLAGS=-help)
	go test -run '^$$' -bench . -benchmem ./...
	$(NOCGO) go build -o bin/kubedelve-bench ./internal/bench
	bin/kubedelve-bench $(BENCHFLAGS)

##@ The extension for VS Code (node 20, npm)

EXTENSION := editors/vscode
# code-server, in which the extension is tested: installed once, 320 MB.
WORKBENCH := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kubedelve/code-server

.PHONY: vsix
vsix: $(EXTENSION)/node_modules ## check it and package it in editors/vscode/dist; only the first time asks the npm registry
	npm --prefix $(EXTENSION) run --silent check
	npm --prefix $(EXTENSION) run --silent package

# The tools, in the versions that package-lock.json pins.
$(EXTENSION)/node_modules: $(EXTENSION)/package-lock.json
	npm --prefix $(EXTENSION) ci --ignore-scripts --no-audit --no-fund
	touch $@

.PHONY: test-vscode
test-vscode: vsix ## test it in a real workbench, in Chromium, on a cluster (Linux, root)
	npm --prefix $(EXTENSION) run --silent test
	$(EXTENSION)/test/workbench/install.sh $(WORKBENCH)
	KUBEDELVE_TEST_CODE_SERVER=$(WORKBENCH) go test -tags 'integration vscode' -count=1 -timeout 30m -run VSCode -v ./internal/e2e | .ci/noskip

##@ The test cluster (Linux, root)

CLUSTER ?= default

.PHONY: cluster
cluster: ## bring one up; prints its kubeconfig
	@$(NOCGO) go run -C testdata/cluster . up --name $(CLUSTER)

.PHONY: cluster-down
cluster-down: ## take it down
	@$(NOCGO) go run -C testdata/cluster . down --name $(CLUSTER)

.PHONY: cluster-status
cluster-status: ## list the clusters
	@$(NOCGO) go run -C testdata/cluster . status

##@ Other

.PHONY: clean
clean: ## remove what make has built here
	rm -rf bin dist $(EXTENSION)/dist

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
