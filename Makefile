# Everything a newcomer needs: `make demo` and `make test` make their own virtual environment on first use and re-use it after that.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= pointpillar

.PHONY: demo test setup clean

demo: $(VENV)/.ready-demo
	$(BIN)/python tools/run_demo.py --model $(MODEL)

test: $(VENV)/.ready-test
	$(BIN)/python -m pytest

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
