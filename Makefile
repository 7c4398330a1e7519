PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test check format lock starter leaderboard bench chaos clean

run: $(VENV)/.run ## install what serving and training need, then API and worker together; Ctrl-C stops both
	@exec $(BIN)/cuvee up

test: $(VENV)/.dev ## every test, a process for each core and a thread for each process
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadscope --no-loadscope-reorder

check: $(VENV)/.dev ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## pin the newest versions of everything in constraints.txt
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet 'torch==2.13.0' '.[worker,postgres,dev]'
	# the suffix of a local torch build (2.13.0+cpu) is dropped, so that every index has what is pinned
	build/lock/bin/pip freeze --all --exclude pip --exclude cuvee | sed 's/+cpu$$//' > constraints.txt

starter: $(VENV)/.run ## train the starter model again and pour its dataset (eight minutes)
	$(BIN)/python scripts/pour_starter.py

leaderboard: $(VENV)/.run ## train every method on DATASET (uci) at default settings and print them side by side
	@exec $(BIN)/python scripts/leaderboard.py --dataset $(or $(DATASET),uci)

bench: $(VENV)/.dev ## what serving costs beside what it could; a table, and build/bench.json
	$(BIN)/python -m benchmarks.bench

chaos: $(VENV)/.dev ## kill, stop, fill and cut off everything on both databases, and see what was promised hold; SEED= ROUNDS=
	$(BIN)/python -m chaos $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS))

clean: ## forget the environment; data under var/ stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cuvee needs Python 3.11 or newer; say which: make PYTHON=python3.12 run")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/pip pyproject.toml constraints.txt
	$(INSTALL) -e '.[worker,postgres]'
	@touch $@

$(VENV)/.dev: $(BIN)/pip pyproject.toml constraints.txt
	$(INSTALL) -e '.[worker,postgres,dev]'
	@touch $@ $(VENV)/.run
