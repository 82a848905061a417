# `make` prints this list. The work is in hack/*.sh and in the crates; a target here is one line.
.DEFAULT_GOAL := help
SHELL := /bin/bash

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## the quickstart without a cluster, on loopback; ONCE=1 ends by itself
	@ONCE=$(ONCE) examples/quickstart/demo.sh

.PHONY: test
test: ## installs or builds what is missing, then runs every tier (root, for network namespaces)
	@hack/test.sh

.PHONY: tools
tools: ## only what the tests start: Debian packages and Kubernetes
	@hack/packages.sh && hack/kube.sh

.PHONY: build
build: ## the product's binaries, as the tests start them
	@cargo build --locked --workspace --bins
	@cargo build --locked --workspace --features sluice-sidecar/without-cache --bin sluice-sidecar-without-cache

.PHONY: lint
lint: ## format, clippy, licences, documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	hack/deny.sh bans licenses sources
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace

.PHONY: advisories
advisories: ## known vulnerabilities in dependencies (fetches the advisory database)
	@hack/deny.sh advisories

.PHONY: cluster
cluster: ## starts a real Kubernetes node on this machine (root); docs/cluster.md
	@hack/cluster.sh up

.PHONY: cluster-down
cluster-down: ## ends it and leaves no trace
	@hack/cluster.sh down

.PHONY: properties
properties: ## property tests with new random cases, CASES=4000 of each; some minutes
	PROPTEST_CASES=$(or $(CASES),4000) cargo test --locked --workspace --lib --no-fail-fast

.PHONY: e2e
e2e: ## the tests on a real cluster, started for them unless KUBECONFIG names one
	@hack/e2e.sh

.PHONY: conformance
conformance: ## the Gateway API's own conformance suite on a real cluster; RUN=NAME for one test
	@hack/conformance.sh

.PHONY: bench
bench: ## measures and writes docs/performance.md
	@hack/bench.sh

.PHONY: bench-gate
bench-gate: ## instructions, system calls and memory of the sidecar against their limits; SCALE=0.5 must fail
	@hack/bench.sh gate --scale $(or $(SCALE),1)

.PHONY: fuzz
fuzz: ## the fuzz targets for SECONDS (20) in all, and that they find a planted panic
	@hack/fuzz.sh $(SECONDS)

.PHONY: soak
soak: ## new connections and changing routes for SECONDS (120): nothing may be left behind (root)
	@hack/soak.sh $(SECONDS)

.PHONY: churn
churn: ## ROUTES (5000) HTTPRoutes at two edges, CHANGES (3000) of them under load, with bounds (root)
	@hack/churn.sh $(ROUTES) $(CHANGES)

.PHONY: crds
crds: ## writes crds/yaml from the Rust types
	cargo run --quiet --package sluice-crds --bin crdgen crds/yaml

.PHONY: images
images: ## target/images/*.tar: operator, sidecar and sample app as OCI archives; PROFILE=dev is quick
	@hack/images.sh

.PHONY: charts
charts: ## writes what charts/ and deploy/ have from the Rust types and from the chart
	@HELM=$$(hack/kube.sh)/helm && HELM=$$HELM cargo run --quiet --package sluice-charts -- .

.PHONY: golden
golden: ## rewrites the golden files; read the diff
	UPDATE_GOLDEN=1 INSTA_UPDATE=always cargo test --quiet --package sluice-snapshot --package sluice-translate

.PHONY: clean
clean: ## removes what cargo built; the cache of tools in ~/.cache/sluice stays
	cargo clean
