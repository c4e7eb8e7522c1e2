# Everything a newcomer needs: `make demo` and `make test` make their own virtual environment on first use and re-use it after that.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= pointpillar

.PHONY: demo test quick mutants lint setup clean

demo: $(VENV)/.ready-demo
	$(BIN)/python tools/run_demo.py --model $(MODEL)

# A process for each core, and one thread in each process.
test: $(VENV)/.ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# One case of each parametrised test and no slow ones: the inner loop.
quick: $(VENV)/.ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --quick -q --durations=0 --durations-min=3

# Would the tests notice a fault? Draws some and counts, see docs/testing.md. ARGS="--seed 2 --number 9 --package losses"
mutants: $(VENV)/.ready-test
	$(BIN)/python tests/mutants.py $(ARGS)

lint: $(VENV)/.ready-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

setup: $(VENV)/.ready-test

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone: what is installed after it then takes the build that is there.
$(VENV)/.ready-demo: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ready-test: requirements-test.txt $(VENV)/.ready-demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

clean:
	rm -rf $(VENV) output data/synthetic build dist *.egg-info
