# medlsamd: two commands on a fresh machine, `make demo` and `make test`. Prerequisites: a Rust toolchain, a C/C++ compiler
# with make and cmake, python3 with pip.

PYTHON ?= python3
CACHE  ?= .cache
CARGO  ?= cargo

.PHONY: demo test peers setup build check fmt lint deny soak install clean

demo: setup ## fetch, build, push a real CT through the daemon, say where the results are
	$(CARGO) run --release --quiet -- demo --cache $(CACHE)

test: setup ## every test that needs no extra server
	$(CARGO) test --quiet

setup: ## fetch the pinned runtime, weights and sample CT (instant when they are there)
	@$(PYTHON) models/fetch.py --cache $(CACHE)

build:
	$(CARGO) build --release

peers: ## install the foreign tools that the peer tests use (Debian packages; needs root)
	tests/peers/install

check: fmt lint deny test

fmt:
	$(CARGO) fmt --check

lint:
	$(CARGO) clippy --all-targets --quiet -- -D warnings -D clippy::todo

deny:
	$(CARGO) deny --offline --log-level error check bans licenses sources

clean:
	$(CARGO) clean
	rm -rf $(CACHE) .venv
