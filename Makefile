# `make demo` and `make test` set up all they need, in .venv, on a machine with Python 3.11 to 3.13.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
VENV := .venv

.PHONY: demo test fast-test clean

demo: $(VENV)/demo.installed
	$(VENV)/bin/python -m experiments.demo --output=runs/demo

test: $(VENV)/test.installed
	$(VENV)/bin/python -m pytest

fast-test: $(VENV)/test.installed
	$(VENV)/bin/python -m pytest -m "not slow"

$(VENV)/%.installed: setup.cfg constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) runs/demo
