# Every target installs what it needs first, into .venv and through the system's own package manager.
SHELL := /bin/bash
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
OFFLINE := .ci/offline

.PHONY: help demo test check bench soak lock docs corpus format clean

help: ## List the targets.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: ## Run the whole story: build, sign, promote, compile, boot, release the key, refuse the rest.
	@.ci/setup demo
	@.venv/bin/tally demo --workdir demo

test: ## Everything that must hold, long counts as a seeded sample.
	@.ci/setup test
	@$(MAKE) --no-print-directory check
	.venv/bin/tally build build/confidential-inference.yaml -o .state/release
	TALLY_RELEASE=.state/release $(PYTEST) -m "(boot or nix or slow) and not soak"

check: ## Format, lint, types, and every fast test, with no network at all.
	@.ci/setup test
	$(PYTHON) -m ruff format --check pipeline tests nix
	$(PYTHON) -m ruff check pipeline tests nix
	MYPYPATH=pipeline $(PYTHON) -m mypy
	$(OFFLINE) $(PYTEST) -n 2 -m "not (boot or nix or slow or soak or net)"

bench: ## Side-by-side timings, written to docs/benchmarks.md.
	@.ci/setup test
	$(PYTHON) tests/bench/run.py

soak: ## The long counts in full: kills, mutants, boots, fuzzing. Hours.
	@.ci/setup test
	$(PYTEST) -m soak

lock: ## Refresh the two locks of Python dependencies.
	@.ci/setup test
	.venv/bin/uv pip compile -q --no-header --universal --python-version 3.11 --generate-hashes --no-emit-index-url pyproject.toml --group build -o requirements.lock
	.venv/bin/uv pip compile -q --no-header --universal --python-version 3.11 --generate-hashes --no-emit-index-url pyproject.toml --group build --group dev -o requirements-dev.lock

docs: ## Write the pages that come from the program itself.
	@.ci/setup test
	PYTHONPATH=pipeline $(PYTHON) docs/generate.py

corpus: ## Assemble other people's evidence and test cases from their public repositories, beside the checkout.
	@.ci/setup test
	$(PYTHON) tests/corpus/assemble.py "$${TALLY_CORPUS:-../shared}"

format: ## Format the code.
	$(PYTHON) -m ruff format pipeline tests nix
	$(PYTHON) -m ruff check --fix pipeline tests nix

clean: ## Remove what the targets above made here.
	rm -rf .venv demo dist
