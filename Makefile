# make demo: the main job, end to end.   make test: the whole test suite.   Both set up .venv first where it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint lock clean

demo: .venv/ready
	$(BIN)/rayclf demo

test: .venv/ready
	$(BIN)/python -m pytest -n auto --maxprocesses 4

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 to 3.13 is needed; set PYTHON=python3.11" if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@

# Pin what is installed now; the packages of CUDA and of this project itself are left to torch and to the checkout.
lock: .venv/ready
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -vE '^(nvidia-|cuda-|triton|rayclf)' > constraints.txt

clean:
	rm -rf .venv
