# Short names for what README.md and .ci/run spell out. `make` alone lists them.
PYTEST = .venv/bin/pytest

help:    ## this list
	@sed -n 's/^\([a-z-]*\): .*## /\1\t/p; s/^\([a-z-]*\):  *## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup:   ## host tools, emulation, .venv with the test tools
	scripts/setup test

example: ## build and verify profiles/minimal.yaml for both architectures
	scripts/setup && .venv/bin/rofs build profiles/minimal.yaml

test: setup     ## all tests, boots included
	$(PYTEST)

fast: setup     ## the tests that need no boot and no download
	$(PYTEST) tests/unit -m "not slow"

lint: setup     ## style and types
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

goldens: setup  ## rewrite the expected files; read the diff before you commit it
	ROFS_REWRITE_GOLDENS=1 $(PYTEST) tests/unit/test_goldens.py tests/unit/test_problems.py

.PHONY: help setup example test fast lint goldens
