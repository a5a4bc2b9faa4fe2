# make demo   brings up a small Slurm cluster in Docker and streams it to ready
# make test   passes every test, real nodes included
#
# Both install and start Docker where it is not running (as root on Debian or Ubuntu; elsewhere they
# say what to do).

NODES := tests/nodes
# The tests run on nodes of both; another one may be asked for.
SUITES := $(sort bookworm forky $(READYD_SUITE))

.PHONY: demo demo-down test every-test bench fuzz mutants engine image podman

demo: engine
	cargo build --locked
	$(NODES)/demo

# Removes the demo's cluster, and whatever else the tests may have left behind.
demo-down: engine
	$(NODES)/cluster down

# The closing line says how long it took, and how many nodes it started.
test: engine image podman
	$(NODES)/tally $(MAKE) --no-print-directory every-test

# Most tests of real nodes wait for something: more of them at once than there are cores take half the
# time.
every-test: export RUST_TEST_THREADS ?= 6
every-test:
	cargo test --locked --no-fail-fast --lib --bins --tests --examples
	cargo test --locked --doc

bench: engine image
	cargo bench --locked --bench nodes --bench waits --bench many

# Every parser of foreign bytes, each for ten minutes; FUZZ_SECONDS=60 and FUZZ=bus say otherwise.
fuzz:
	tests/fuzz/run $(or $(FUZZ_SECONDS),600) $(FUZZ)

# Changes the core, the probes and the monitor in every way that a test should notice (.cargo/mutants.toml);
# takes hours. MUTANTS says more to cargo-mutants: `--shard 1/8`, `--file src/watcher/confirm.rs`.
mutants:
	command -v cargo-mutants >/dev/null || cargo install --locked cargo-mutants
	cargo mutants --output target $(MUTANTS)

engine:
	$(NODES)/engine

# A second engine, for tests alone.
podman:
	$(NODES)/podman

# The options are found by trying, once, before tests that run at the same time would all try.
image: engine
	for suite in $(SUITES); do \
	  for image in node db; do \
	    READYD_SUITE=$$suite READYD_IMAGE=$$image $(NODES)/cluster image && \
	    READYD_SUITE=$$suite READYD_IMAGE=$$image $(NODES)/cluster flags >/dev/null || exit 1; \
	  done; \
	done
