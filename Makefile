# medlsamd: two commands on a fresh machine, `make demo` and `make test`. Prerequisites: a Rust toolchain, a C/C++ compiler
# with make and cmake, python3 with pip.

PYTHON ?= python3
CACHE  ?= .cache
CARGO  ?= cargo
RUN    ?= $(CARGO) run --release --quiet --
# labelled/ and ct3mm/ as models/README.md describes them
DATA   ?= ../shared/data

.PHONY: demo test evaluate peers setup build check fmt lint deny soak fuzz install clean

demo: setup ## fetch, build, push a real CT through the daemon, say where the results are
	$(CARGO) run --release --quiet -- demo --cache $(CACHE)

test: setup ## every test that needs no extra server
	$(CARGO) test --quiet

evaluate: setup ## measure localisation and outlines: labelled cases, templates left out by patient, ablations (see models/README.md)
	@for part in labelled ct3mm; do test -d "$(DATA)/$$part" || { \
	  echo "make evaluate: $(DATA)/$$part is not there; say DATA=DIR (models/README.md says what it holds)" >&2; exit 3; }; done
	$(RUN) evaluate --config config/checkout.toml --whole-boxes --ablations --out $(CACHE)/evaluation \
	  --ct $(CACHE)/sample/lidc_0001.nii.gz --labels $(DATA)/labelled/lidc_0001/seg.nii.gz \
	  --ct $(DATA)/labelled/totalseg_example/ct.nii.gz --labels $(DATA)/labelled/totalseg_example/seg.nii.gz \
	  --leave-one-out models/medlam/templates --presence models/medlam/templates/make/presence.json --ct-dir $(DATA)/ct3mm

SOAK_FUZZ_S ?= 1800
soak: setup ## the daemon's memory over 100,000 received images (5 minutes or more; needs DATA, see models/README.md), then SOAK_FUZZ_S seconds of fuzzing for each of four targets
	$(CARGO) build --release --bins --benches
	benches/reception.py --slice $(DATA)/dicom/crlm_1006.zip --soak 100000
	$(MAKE) --no-print-directory fuzz FUZZ_S=$(SOAK_FUZZ_S)

FUZZ_S ?= 120
FUZZ_BUILD = --dev --sanitizer none
fuzz: ## libFuzzer on what strangers' bytes reach first, FUZZ_S seconds each (cargo install cargo-fuzz; needs no nightly)
	@$(CARGO) fuzz build $(FUZZ_BUILD)
	@for target in association command part10 labels; do \
	  echo "fuzzing $$target for $(FUZZ_S) s"; mkdir -p fuzz/corpus/$$target && \
	  $(CARGO) fuzz run $(FUZZ_BUILD) $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	    -max_total_time=$(FUZZ_S) -timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1 || { \
	    echo "make fuzz: $$target fell over an input; it lies in fuzz/artifacts/$$target (the newest), the panic is above." >&2; \
	    echo "Look again: cargo fuzz run $(FUZZ_BUILD) $$target FILE. Put it into fuzz/seeds/$$target with its fix." >&2; exit 1; }; done

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
