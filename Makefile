# `make demo` runs the main job, `make test` the tests; both set everything up in .venv first.
# The first Python of a fitting version; PYTHON=... chooses another.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c '$(FITS)' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: setup demo test test-slow test-faults test-executors error-rates mosaic-results methods-all gpu-check bench-compare growth-curves lint clean

setup: $(READY)

# Debian ships venv apart from Python: say so instead of failing half-way.
$(READY): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || \
		{ echo "RefineLab needs Python 3.11 to 3.13; set PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "this Python has no venv: run 'apt-get install python3-venv' and try again"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch torchvision
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: setup
	$(RUN) main.py grid demo
	$(RUN) main.py report runs/demo

# Two processes, a file at a time: what the tests of a file share is made once. Long files come
# first, see tests/conftest.py.
test: setup
	$(RUN) -m pytest -m 'not slow and not faults and not executors' -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup
	$(RUN) -m pytest -m slow

# Real processes are killed and stopped, disks are full, databases are locked; best as root.
test-faults: setup
	$(RUN) -m pytest -m faults

# Small Ray clusters that lose workers and nodes, and Slurm jobs played by processes of this machine.
test-executors: setup
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray,slurm]'
	$(RUN) -m pytest -m executors

# Simulates how often the verdicts are wrong, and writes docs/verdicts.md.
error-rates: setup
	$(RUN) -m tests.helpers.error_rates_page

# Hours on two cores; it can be interrupted and goes on where it stopped.
MOSAIC_STUDIES := demo mosaic_sets does_the_cache_work caches_x_aggregations methods_x_refiners \
	sep_scopes
mosaic-results: setup
	for study in $(MOSAIC_STUDIES); do $(RUN) main.py grid $$study || exit 1; done
	$(RUN) main.py search search_text_refiner --control
	$(RUN) -m tests.helpers.mosaic_results_page

# A search for every method and refiner, then two grids; most of a day on two cores. It goes on where
# it stopped.
METHODS_ALL := $(RUN) -m tests.helpers.tuned_methods
methods-all: setup
	$(METHODS_ALL) searches
	for search in runs/tuning/*.gin; do \
		$(RUN) main.py search $$search --no-final --track none || exit 1; done
	$(METHODS_ALL) grids
	$(RUN) main.py grid methods_all_few_shot --track none
	$(RUN) main.py grid methods_all --track none

# Every method on a GPU as on the CPU, its speed there, a small study, and faults; under eight minutes.
gpu-check: setup
	$(RUN) main.py gpu-check

# Training steps of this tree beside those of another commit, in turns: make bench-compare REF=HEAD~1
bench-compare: setup
	@test -n "$(REF)" || { echo "give a commit: make bench-compare REF=HEAD~1"; exit 2; }
	$(RUN) main.py bench --against $(REF) $(ARGS)

# How a step and the commands grow with classes, images, context and runs; writes docs/speed.md.
growth-curves: setup
	$(RUN) -m tests.helpers.growth_curves

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache
