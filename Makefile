# The few commands a newcomer needs. Each installs the host packages that it misses and says what it does.

CARGO ?= cargo
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# How cargo's settings name this host, as X86_64_UNKNOWN_LINUX_GNU.
HOST_TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
# What cargo runs or tests then is run by root; cargo itself is not.
AS_ROOT = $(if $(SUDO),CARGO_TARGET_$(HOST_TRIPLE)_RUNNER="$(SUDO) -E")
SAY := printf '\n== %s\n'
export RUST_BACKTRACE ?= 0
# The gate tries the same random histories each time; others: make test-unit PROPTEST_RNG_SEED=N
export PROPTEST_RNG_SEED ?= 20261123

.PHONY: help demo test test-unit test-chassis image lint bench clean host programs

help:
	@echo "make demo          three modules, ten apps, one isolated, migration, return (KEEP=1: until Ctrl-C)"
	@echo "make test          all of them, as the continuous integration runs it (SUITE=DIR: with make conformance)"
	@echo "make test-unit     fast tests, no emulation"
	@echo "make test-chassis  tests on three modules in QEMU, and on three that are namespaces of this host"
	@echo "make test-layer    the Yocto layer, without Yocto's metadata; LAYERS=DIR: and with it"
	@echo "make test-kernel   the kernel features against a kernel's source"
	@echo "make kernel        a slim real-time kernel with just these features, and the scenario on it"
	@echo "make image         the twin image alone"
	@echo "make layer-check   the Yocto layer against real metadata (LAYERS=DIR; see docs/building.md)"
	@echo "make crates        the recipes' crates from Cargo.lock"
	@echo "make histories     100,000 random histories of the planner (HISTORIES=N: so many)"
	@echo "make lint          format, clippy, licences and sources"
	@echo "make conformance   the registry against the public suite (SUITE=DIR; see docs/registry.md)"
	@echo "make fuzz          the registry's parsers, SECONDS=30 each"
	@echo "make test-fuzz     the same for 100,000 inputs each, built quickly"
	@echo "make bench         measured figures, as ratios where there is a peer"
	@echo "make clean         build results of this clone (the image cache stays; see docs/simulator.md)"

# The oldest Rust that builds this.
RUST := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# One list, one place: qemu-tests/host-packages.
host:
	@missing=$$(sed 's/#.*//' qemu-tests/host-packages | tr -s ' \t' '\n' | grep . | while read -r p; do \
	  dpkg-query -W -f '$${Status}' $$(echo "$$p" | tr '|' ' ') 2>/dev/null | grep -q 'ok installed' || echo "$${p%%|*}"; done); \
	if [ -n "$$missing" ]; then \
	  $(SAY) "installing host packages: $$(echo $$missing)"; \
	  [ -z "$(SUDO)" ] || command -v $(SUDO) >/dev/null || { echo "that needs root: run it as root, or install sudo"; exit 1; }; \
	  $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
	@command -v $(CARGO) >/dev/null || { $(SAY) "installing Rust by Debian's rustup"; \
	  $(SUDO) apt-get install -y -qq rustup >/dev/null && rustup default stable; } || \
	  { echo "Rust $(RUST) or newer is needed and could not be installed (Debian 12 has none new enough); see https://rustup.rs"; exit 1; }
	@found=$$($(CARGO) --version | cut -d' ' -f2); printf '%s\n' $(RUST) "$$found" | sort -VC || \
	  { echo "Rust $(RUST) or newer is needed, and $$(command -v $(CARGO)) is $$found: remove it, or update it (rustup update)"; exit 1; }

programs: host
	@$(SAY) "building spacecloudd, space-registry and spacectl (release)"
	$(CARGO) build --release --locked

image: programs
	@$(SAY) "building the twin image (cached outside the clone)"
	$(CARGO) run -q --locked -p spacesim -- image build

demo: programs
	@$(SAY) "the demo: three modules in QEMU"
	$(CARGO) run -q --locked -p spacesim -- demo $(if $(KEEP),--keep)

test: test-unit test-fuzz test-conformance test-layer test-kernel test-chassis
	@$(SAY) "all tests passed"
	@[ -n "$(SUITE)" ] || { $(NO_SUITE); }

# Most of these tests wait for something: more of them at once than there are cores.
WAITING ?= 6

test-unit: host
	@$(SAY) "unit, property and loopback tests"
	RUST_TEST_THREADS=$(WAITING) $(CARGO) test --locked --workspace

# The suite's Go modules cannot be had everywhere.
NO_SUITE = $(SAY) "NOT RUN: the public OCI conformance suite (make test SUITE=DIR runs it; see docs/registry.md)"; \
  echo "The same requirements are covered from the specification's text by src/registry/tests, which test-unit runs."

.PHONY: test-conformance
test-conformance:
	@if [ -n "$(SUITE)" ]; then $(MAKE) --no-print-directory conformance; else $(NO_SUITE); fi

.PHONY: test-layer test-kernel kernel crates layer-check
test-layer: host
	@$(SAY) "the Yocto layer: BitBake's parser, oelint-adv and kas from PyPI (kept outside the clone)"
	meta-spacecloud/scripts/check-offline
	$(if $(LAYERS),@$(MAKE) --no-print-directory layer-check)

test-kernel: host
	@$(SAY) "kernel features on the default configurations of x86-64 and arm64 (source cached outside the clone)"
	$(CARGO) test --locked --workspace --features spacesim/kernel --test kernel -- --nocapture

kernel: programs
	@$(SAY) "the slim kernel (some 20 minutes of processor time, once), then the scenario on it"
	$(CARGO) run -q --locked -p spacesim -- kernel build
	$(CARGO) run -q --locked -p spacesim -- demo --kernel built

crates: host
	SPACECLOUD_UPDATE_CRATES=1 $(CARGO) test -q --locked -p spacesim --test layer crates

# Hours of work, so only where somebody says where the metadata is: also `make test LAYERS=DIR`, or LAYERS in CI's environment.
layer-check:
	@[ -n "$(LAYERS)" ] || { echo "make layer-check LAYERS=DIR; what DIR must hold: docs/building.md"; exit 64; }
	meta-spacecloud/scripts/check-layer "$(LAYERS)"

.PHONY: histories
HISTORIES ?= 100000
histories: host
	@$(SAY) "$(HISTORIES) random histories of each kind: the pool, its constraints, the server's core"
	PROPTEST_CASES=$(HISTORIES) $(CARGO) test --release --locked -p planner --test pool
	SPACECLOUD_HISTORIES=$(HISTORIES) $(CARGO) test --release --locked -p planner --lib histories

# Those that say in qemu-tests/Cargo.toml that they need a chassis; the others are test-unit's. With the whole workspace, so
# that nothing is built again for the sake of other features: no other package may have a test of such a name.
CHASSIS_TESTS = $(shell awk -F'"' '/^name/{name=$$2} /^required-features = .*"chassis"/{print "--test", name}' \
  qemu-tests/Cargo.toml)
test-chassis: programs
	@$(SAY) "three modules in QEMU, and three that are namespaces of this host (which takes root)"
	$(AS_ROOT) $(CARGO) test --locked --workspace --features spacesim/chassis $(CHASSIS_TESTS) -- --nocapture --test-threads=1

.PHONY: lint-quick
lint-quick: host
	@$(SAY) "format and clippy"
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --features spacesim/chassis -q -- -D warnings

lint: lint-quick
	@$(SAY) "licences, walls and sources"
	@command -v cargo-deny >/dev/null || $(CARGO) install -q --locked cargo-deny
	$(CARGO) deny --log-level warn check bans licenses sources

.PHONY: conformance fuzz
conformance:
	@[ -n "$(SUITE)" ] || { echo "make conformance SUITE=DIR: the built suite or its source; see docs/registry.md"; exit 64; }
	@$(SAY) "the registry against the public conformance suite"
	$(CARGO) build -q --locked -p registry
	src/registry/scripts/conformance "$(SUITE)" target/debug/space-registry target/conformance

# Fuzzing takes flags of the compiler that only a nightly one has, or one that is told to have them.
SECONDS ?= 30
FUZZ_BUILD ?=
FUZZ_END ?= -max_total_time=$(SECONDS)
CARGO_FUZZ = RUSTC_BOOTSTRAP=1 $(CARGO) fuzz
FUZZ_TELL ?=
fuzz: host
	@command -v cargo-fuzz >/dev/null || { $(SAY) "installing cargo-fuzz"; $(CARGO) install -q --locked --debug cargo-fuzz; }
	@cp Cargo.lock src/registry/fuzz/   # what is fuzzed is what flies
	@$(SAY) "building what is fuzzed"
	@$(CARGO_FUZZ) build --fuzz-dir src/registry/fuzz $(FUZZ_BUILD)
	@for target in $$(ls src/registry/fuzz/seeds); do \
	  $(SAY) "fuzzing $$target"; \
	  mkdir -p src/registry/fuzz/corpus/$$target && \
	  $(CARGO_FUZZ) run --fuzz-dir src/registry/fuzz $(FUZZ_BUILD) $$target \
	    src/registry/fuzz/corpus/$$target src/registry/fuzz/seeds/$$target -- \
	    $(FUZZ_END) -print_final_stats=1 -timeout=10 -rss_limit_mb=1024 $(FUZZ_TELL) || exit 1; \
	done

# Most of what is said are dictionaries for the next run: it is shown after a failure only.
FUZZ_LOG = src/registry/fuzz/target/$$$$target.log
FUZZ_BRIEFLY = >$(FUZZ_LOG) 2>&1 && grep ^stat:: $(FUZZ_LOG) || { cat $(FUZZ_LOG); false; }

# A short run, the same each time in a fresh clone. None of our code that is fuzzed is unsafe: a sanitizer finds no more.
.PHONY: test-fuzz
test-fuzz:
	@$(MAKE) --no-print-directory fuzz FUZZ_BUILD="--dev --sanitizer none" FUZZ_TELL='$(FUZZ_BRIEFLY)' \
	  FUZZ_END="-runs=100000 -verbosity=0 -seed=$(PROPTEST_RNG_SEED)"

bench: programs
	@$(SAY) "figures of this machine, beside their limits"
	$(CARGO) run -q --locked -p spacesim -- demo
	@$(SAY) "one module from power-on to ready, and the size of the twin's base"
	$(CARGO) run -q --locked -p spacesim -- bench boot --runs 3
	@$(SAY) "the planner: cost from 100 to 10,000 nodes, and contended tasks under multilevel beside spread"
	$(CARGO) run -q --locked --release -p planner --example growth target/planner-growth.svg
	$(CARGO) run -q --locked --release -p planner --example contention target/planner-contention.svg
	@$(SAY) "the registry beside docker-registry and nginx"
	$(CARGO) bench -q --locked -p registry --bench rivals
	@$(SAY) "loss, drain and return on namespaces, beside Docker Swarm (needs root)"
	$(AS_ROOT) $(CARGO) run -q --locked -p spacesim -- --backplane netns bench failover --runs 10 --swarm 3
	$(AS_ROOT) $(CARGO) run -q --locked -p spacesim -- --backplane netns bench loss --runs 5
	$(AS_ROOT) $(CARGO) run -q --locked -p spacesim -- --backplane netns bench drain --runs 5
	$(AS_ROOT) $(CARGO) run -q --locked -p spacesim -- --backplane netns bench update --runs 5
	$(AS_ROOT) $(CARGO) run -q --locked -p spacesim -- --backplane netns bench return --runs 10

clean:
	$(CARGO) clean
