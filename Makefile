# Every step of work on faceid is a target here; `make` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup run test build install bench fmt lint openapi clients docs site links spelling deny fuzz examples clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 17

setup: ## fetch libtorch, Postgres and the weights; once (see scripts/setup.py --help)
	@$(call setup,test)

run: ## start the server; make run ARGS="--bind 127.0.0.1:18080 --data-dir DIR"
	@$(call setup,run)
	@cargo run --release --bin faceid -- serve $(ARGS)

# Tests that need the test photos are ignored by name where there are none; under CI they run, and fail without them.
test: setup ## run every test; make test ARGS="--lib vision" for some
	@photos="$${FACEID_TEST_DATA:-../shared/data}"; chosen=; \
	if [ "$${CI:-}" = true ] || [ -d "$$photos" ]; then chosen="--include-ignored $(LEFT_OUT)"; \
	else echo "tests that need photos are ignored: there is no $$photos (FACEID_TEST_DATA names another folder)"; fi; \
	set -x; cargo test $(ARGS) -- $$chosen

build: setup ## build the release binary
	cargo build --release

install: setup ## build the release binary and put it on the PATH, where cargo puts programs
	cargo install --path . --locked

bench: build ## compare with the reference peer and write benches/RESULTS.md (about 20 minutes, needs wrk)
	python3 scripts/bench.py $(ARGS)

fmt: ## format the code
	cargo fmt

lint: setup ## check the format and run clippy
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

openapi: setup ## write openapi.yaml anew from the code
	@cargo run --quiet --bin faceid -- openapi > .openapi.yaml.new || { rm -f .openapi.yaml.new; exit 1; }
	@mv .openapi.yaml.new openapi.yaml

clients: setup ## try clients made from openapi.yaml and those of CompreFace; make clients ARGS="--faceid PROGRAM"
	@python3 scripts/check_clients.py $(ARGS)
	@python3 scripts/check_compreface.py $(ARGS)

docs: setup ## build the crate's documentation; a warning is an error
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

site: ## build the site of the documentation into site/
	@$(call tools,mdbook)
	@python3 scripts/site.py

links: ## build the site and check every link of it and of the pages
	@$(call tools,mdbook lychee)
	@python3 scripts/site.py --check-links

spelling: ## check the spelling of pages and code (exceptions are in typos.toml)
	@$(call tools,typos)
	@"$${FACEID_HOME:-$$HOME/.cache/faceid}"/typos/typos $(ARGS)

deny: ## check licences, sources and kinds of dependencies (deny.toml); make deny ARGS="check advisories" needs the network
	@$(call tools,deny)
	@cargo fetch --quiet --locked # those of other platforms as well, which no build fetches
	@"$${FACEID_HOME:-$$HOME/.cache/faceid}"/cargo-deny/cargo-deny $(or $(ARGS),--offline check bans licenses sources)

# Without a sanitizer: all but nn/shim is safe Rust, and libtorch is none that is built here.
fuzz: setup ## feed made files to a reader (image, form, onnx, gallery, archive); make fuzz ARGS="image" SECONDS=600
	cargo +nightly fuzz run --sanitizer none $(ARGS) fuzz/corpus/$(ARGS) $(SEEDS) -- -max_total_time=$(or $(SECONDS),600) -rss_limit_mb=1024 -timeout=30 -max_len=$(or $(BYTES),65536)

examples: ## run the examples of README.md, docs/ and openapi.yaml; make examples ARGS=docs/start.md for some
	@$(call tools,libraries)
	@python3 scripts/check_examples.py $(ARGS)

clean: ## delete build output; what setup fetched stays
	@folder=$$(readlink -f "$${CARGO_TARGET_DIR:-target}") && cargo clean --target-dir "$$folder" && mkdir -p "$$folder"

# Tests that are no part of a run: one trains for minutes, one is a part of another test.
LEFT_OUT := --skip camera:: --skip owner_that_will_be_killed

# $(call setup,run) or $(call setup,test)
define setup
command -v python3 > /dev/null || { echo "python3 is missing: sudo apt-get install python3 python3-pip" >&2; exit 1; }; \
	python3 scripts/setup.py --for $(1)
endef

# $(call tools,mdbook lychee): what only the documentation needs, so no other target waits for it
define tools
command -v python3 > /dev/null || { echo "python3 is missing: sudo apt-get install python3 python3-pip" >&2; exit 1; }; \
	python3 scripts/setup.py --only $(1)
endef
