# Short names for what README.md and .ci/run spell out. `make` alone lists them.
PYTEST = .venv/bin/pytest
ALL = $(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder
MUTANTS = .venv/bin/python -m tests.mutants --images build/mutants/images --write docs/mutants.md

help:    ## this list
	@sed -n 's/^\([a-z-]*\): .*## /\1\t/p; s/^\([a-z-]*\):  *## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup:   ## host tools, emulation, .venv with the test tools
	scripts/setup test

example: ## build and verify profiles/minimal.yaml for both architectures
	scripts/setup && .venv/bin/rofs build profiles/minimal.yaml

test: setup     ## all tests, boots included, two files at a time
	$(ALL)

fast: setup     ## the tests that need no boot and no download
	$(ALL) tests/unit -m "not slow"

lint: setup     ## style and types
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

goldens: setup  ## rewrite the expected files; read the diff before you commit it
	ROFS_REWRITE_GOLDENS=1 $(PYTEST) tests/unit/test_goldens.py tests/unit/test_problems.py

kills: setup    ## 100 kills at random moments of a build, and somebody who reads what is published
	ROFS_KILLS=100 $(PYTEST) -s tests/unit/test_kills.py

bench: setup    ## what verification costs beside bare boots: medians of five rounds (IMAGE=images/NAME/ARCH)
	.venv/bin/python tests/bench/bench_verify.py $(IMAGE)

bench-builds: setup ## what builds cost beside the same by hand: medians of five rounds; writes docs/benchmarks.md
	.venv/bin/python tests/bench/bench_builds.py --write docs/benchmarks.md

mutants: setup  ## break good images in every way, and see that verification names each: writes docs/mutants.md
	$(MUTANTS) --arch amd64; amd64=$$?; $(MUTANTS) --arch arm64 --third && exit $$amd64

variations: setup  ## good images in odd circumstances: none may be rejected; writes docs/mutants.md
	$(MUTANTS) --variations --arch amd64; amd64=$$?; $(MUTANTS) --variations --arch arm64 && exit $$amd64

reproduce: setup ## 20 builds of each image in random circumstances, every byte compared; writes docs/reproducible.md
	.venv/bin/python -m tests.reproduce --write docs/reproducible.md

.PHONY: help setup example test fast lint goldens kills bench bench-builds mutants variations reproduce
