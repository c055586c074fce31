# What people and CI run. Needs Rust and make; tests/prepare.sh sees to the rest.

.PHONY: help run test check bench bench-quick soak docs

# `make` alone: this list.
help:
	@echo 'make run     build the release and serve conf/tollgate.yaml on 127.0.0.1:8080'
	@echo 'make test    all tests, the official SDKs included'
	@echo 'make check   format, lints, documentation, licences'
	@echo 'make bench   every scenario beside a bare Pingora and other proxies, written to docs/benchmarks.md; two idle cores, forty minutes'
	@echo 'make bench-quick  the same with few rounds and points, compared with the run before; five minutes'
	@echo 'make soak    limits, charges, providers that fail, reloads, upgrades and crowds under load; an hour'
	@echo 'make docs    write the generated pages of docs/ anew'

# Builds the release (minutes, the first time) and serves the demo until Ctrl-C.
run:
	@tests/prepare.sh build
	cargo run --release --locked -- serve --config conf/tollgate.yaml

# Installs what is missing, the pinned SDKs below target/sdk too; a second run needs no network.
test:
	@tests/prepare.sh test
	@tests/sdk/setup.sh
	cargo test --workspace --locked --no-fail-fast

# What CI demands besides the tests.
check:
	@tests/prepare.sh check
# The format of every file.
	cargo fmt --all --check
# Lints, of the tests too; a warning is an error.
	cargo clippy --workspace --all-targets --locked -- -D warnings
# The documentation builds without a warning. `--examples` makes cargo take the features of the step before, so that
# no dependency is checked twice.
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --lib --bin loadtest --examples
# Licences, sources and bans of deny.toml. Advisories need a database from the network: not here.
	@if cargo deny --version >/dev/null 2>&1; then \
		cargo deny --locked check --hide-inclusion-graph licenses bans sources; \
	else \
		echo 'cargo-deny is not installed: licences and sources were not checked'; \
	fi
	@echo 'advisories were not checked: run `cargo deny check advisories` where there is a network'

# The gateway and the load test; the yardstick apart, for an example is built with what tests need, and the gateway would be too.
define built
	cargo build --release --package loadtest --example passthrough --locked
	cargo build --release --workspace --locked
endef
loadtest = "$${CARGO_TARGET_DIR:-target}"/release/loadtest
gateway = --gateway "$${CARGO_TARGET_DIR:-target}"/release/tollgate

# Processor time, memory and delays as the work grows, and what of the targets holds. `--only NAME` measures one scenario
# alone, and leaves the others in the page as they are.
bench:
	@tests/prepare.sh bench
	$(built)
	$(loadtest) bench $(gateway) --write docs/benchmarks.md

# Into target/bench; says which ratios are within 10 % of those of the run before.
bench-quick:
	@tests/prepare.sh bench
	$(built)
	$(loadtest) bench $(gateway) --quick

# Limits hold across gateways, to the request. Then charges: gateways that are killed, balances that many fight for, a Redis
# that is killed and replaced. Then providers that fail (nine minutes, most of it 30 s for each of nine faults), and that
# attack (two). Then what is done to a gateway while it serves, new configurations (eleven minutes), successors (nine),
# crowds (seven), no descriptors and a clock that jumps (one each).
soak:
	@tests/prepare.sh soak
	$(built)
	$(loadtest) limits $(gateway) --nodes 2 --seconds 120
	$(loadtest) limits $(gateway) --nodes 3 --seconds 120
	$(loadtest) outage $(gateway)
	$(loadtest) kills $(gateway) --times 50
	$(loadtest) kills $(gateway) --times 50 --redis
	$(loadtest) money $(gateway)
	$(loadtest) failover $(gateway)
	$(loadtest) upstreams $(gateway)
	$(loadtest) hostile $(gateway)
	$(loadtest) reload $(gateway) --seconds 300
	$(loadtest) upgrade $(gateway) --times 20
	$(loadtest) crowd $(gateway)
	$(loadtest) descriptors $(gateway)
	$(loadtest) clock $(gateway)

# The tests that compare the generated pages write them instead.
docs:
	@tests/prepare.sh build
	TOLLGATE_BLESS=1 cargo test --locked --lib --test errors page_is_up_to_date
