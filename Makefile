# Sets itself up: each target makes .venv when it is missing or older than pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= dev,integration
# A process per core, as each holds torch at most eight; tests of one xdist_group share a process.
WORKERS ?= logical
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadgroup

.PHONY: demo test test-slow test-all lint check fuzz audit mutants record results confidence perf simulate docs clean
.DEFAULT_GOAL := test

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(VENV)/.ready
	$(BIN)/tlac bench --backend embedded --backend pack:cassettes/packs/samples40.jsonl.zst --encoder minilm \
	  --dataset cifar10-samples --dataset imagenet-samples --method slac --method tlac
	test -e demo/photos || $(BIN)/tlac datasets export imagenet-samples demo/photos
	$(BIN)/tlac label demo/photos --classes demo/photos/classes.txt --backend embedded --encoder minilm \
	  -o demo/labels.csv

# The order is random: its seed stands in the first lines, and ARGS="--randomly-seed=SEED" repeats it.
test: $(VENV)/.ready
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(VENV)/.ready
	$(PYTEST) -m slow $(ARGS)

test-all: $(VENV)/.ready
	$(PYTEST) $(ARGS)

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test-all

fuzz: $(VENV)/.ready
	TLAC_FUZZ_CASES=10000 $(BIN)/python -m pytest -m fuzz

# known vulnerabilities of what is installed; says so where nothing could be checked
audit: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[audit]'
	$(BIN)/python -m tests.support.audit

# Small faults that no test notices: `make mutants MODULE=tlac/cache`, or all core rooms, which takes hours.
mutants: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mutants]'
	$(BIN)/python -m tests.support.mutants $(MODULE) --sample $(or $(SAMPLE),40) --seed $(or $(SEED),0) \
		$(if $(ONLY),--only $(ONLY))

# the table of docs/results.md, scored from the packs in cassettes/packs
results: $(VENV)/.ready
	$(BIN)/python -m benchmarks.accuracy.results --write

# how confidence ranks errors: the tables and the figure of docs/methods.md, from the answers in ../shared
confidence: $(VENV)/.ready
	$(BIN)/python -m benchmarks.accuracy.confidence --write

# against the emulator, or with BACKEND=gemini and a key against the provider; see cassettes/README.md
record: $(VENV)/.ready
	TLAC_RECORD_BACKEND=$(BACKEND) $(BIN)/python -m pytest tests/lmms/test_cassettes.py --record-mode=rewrite \
	  -k "recorded_run $(if $(BACKEND),and $(BACKEND) and (slac or tlac))"

# see benchmarks/perf/RESULTS.md; PERF takes options, such as "--only rescoring"
perf: $(VENV)/.ready
	$(BIN)/python -m benchmarks.perf --json perf.json $(PERF)

# the tables of docs/scale.md; CHECK=1 holds the model against measured runs on this machine
simulate: $(VENV)/.ready
	$(BIN)/python -m benchmarks.simulation $(if $(CHECK),--check)

# the site, in build/site; tests run the commands of its pages
docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
