# make demo   from photographs to a trained SPAN, a table and an image (docs: README.md)
# make test   the default test suite          make lint   ruff and mypy
# make test-hosts  train in every BasicSR from 1.3.4.9 to master, from the package index (ten minutes)
# make bench  every claim in benchmarks/       make gpu    all that a GPU has to show, into docs/gpu.md
#   (BUDGET=480 seconds, ASSETS=DIR, OUT=results/gpu; WHEELS=DIR beside the torch of $(PYTHON), without the internet)
#                 make clean  build products, caches, demo output (never .venv)
# PYTHON=python3.11 make …  chooses the interpreter that .venv is built from.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test test-slow test-hosts lint bench gpu clean env

demo: $(STAMP)
	$(BIN)/python -m dscsr_model.cli.demo

# Two processes: the tests start many others, which mostly import BasicSR.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

HOSTS := 1.3.4.9 1.3.5 1.4.0 1.4.1 1.4.2

test-hosts: $(HOSTS:%=build/hosts/%)
	$(BIN)/python -m pytest -m hosts --verbose --numprocesses 2 tests/test_hosts.py

build/hosts/%: | $(STAMP)
	@echo "Fetching BasicSR $* from the package index into $@ (once)"
	@rm -rf $@.part
	@PIP_QUIET=1 PIP_NO_DEPS=1 PIP_TARGET=$@.part $(BIN)/python -m dscsr_model.host.install_basicsr $*
	@mv $@.part $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# Without WHEELS on .venv; with it beside what $(PYTHON) has, torch above all: wheels of BasicSR and what else it lacks.
BUDGET := 480
OUT := results/gpu
ASSETS := $(or $(DSCSR_TEST_ASSETS),../shared/assets)
gpu: $(if $(WHEELS),build/gpu,$(STAMP))
	$(if $(WHEELS),PYTHONPATH=$(CURDIR)/build/gpu $(or $(PYTHON),python3),$(BIN)/python) benchmarks/gpu.py \
	  --budget $(BUDGET) --assets $(ASSETS) --out $(OUT)

build/gpu: $(wildcard $(WHEELS)/*.whl)
	$(or $(PYTHON),python3) -m pip install -q --no-index --no-deps --upgrade --target $@ $^
	@touch $@

env: $(STAMP)

# The order matters: BasicSR's build wants torch beforehand.
$(STAMP): constraints.txt pyproject.toml setup.py dscsr_autoload.pth
	@python=$$(sh .ci/find_python) && echo "Building $(VENV) with $$python (about a minute; once)" && \
	  "$$python" -m venv --clear $(VENV)
	$(PIP) torch torchvision
	PIP_QUIET=1 PIP_CONSTRAINT=constraints.txt $(BIN)/python -m dscsr_model.host.install_basicsr
	$(PIP) --editable '.[test,lint]'
	@touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf datasets/demo experiments/demo_* results/demo*
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
