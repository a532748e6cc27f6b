# `make demo` and `make test` do all set-up themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Boosted trees on few cores lose more to threads that wait than they win by them.
export OMP_NUM_THREADS ?= 1
export MLFLOW_DISABLE_TELEMETRY := true
export FEAST_USAGE := False

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-cluster kind kind-down check bench lock generate clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready ## Create .venv with the pinned requirements

# uv installs in seconds what pip installs in minutes; pip alone serves an index that only pip is set up for.
$(VENV)/ready: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version); set PYTHON=python3.x"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing pinned requirements into $(VENV) ..."
	@awk '/^[a-z]/{keep=/^uv==/} keep' requirements/dev.txt > $(VENV)/uv.txt
	@$(BIN)/pip install -q --require-hashes -r $(VENV)/uv.txt \
	  && $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/dev.txt \
	  || $(BIN)/pip install -q --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## From raw flights to a served, checked model, on this machine
	@$(BIN)/python -m models.arrival_delay.demo

test: setup check ## Set-up, checks and the whole test suite
	$(BIN)/pytest -n auto --dist loadscope -m "not cluster"

test-cluster: setup ## Put evergrow on a cluster (KUBECONFIG; EVERGROW_CLUSTER=ci|kind|...) and test it there
	$(BIN)/pytest -m cluster tests/cluster --timeout 2400

kind: setup ## A kind cluster with everything on it, a trained model and a prediction; says what is missing first
	@PATH=$(CURDIR)/$(BIN):$$PATH python -m manifests.installer up kind

kind-down: setup ## Delete the kind cluster
	@PATH=$(CURDIR)/$(BIN):$$PATH python -m manifests.installer down kind

check: setup ## Lint, types, layers, and that what is generated is current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m evergrow.spec.schema --check
	$(BIN)/python charts/readme.py --check

bench: setup ## Measure every number of the README (ONLY=name for one)
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

LOCK = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
       --custom-compile-command "make lock" -q

lock: setup ## Resolve requirements/*.in again, with hashes
	$(LOCK) requirements/dev.in -o requirements/dev.txt
	$(LOCK) requirements/steps.in -c requirements/dev.txt -o requirements/steps.txt
	$(LOCK) requirements/operator.in -c requirements/dev.txt -o requirements/operator.txt
	$(LOCK) requirements/server.in -c requirements/dev.txt -o requirements/server.txt
	$(LOCK) requirements/mlflow.in -c requirements/dev.txt -o requirements/mlflow.txt
	$(LOCK) requirements/feast.in -c requirements/dev.txt -o requirements/feast.txt
	$(LOCK) requirements/examples.in -c requirements/dev.txt -o requirements/examples.txt
	$(LOCK) requirements/build.in -c requirements/dev.txt -o requirements/build.txt
	$(LOCK) requirements/drift_tools.in -c requirements/dev.txt -o requirements/drift_tools.txt
	$(LOCK) requirements/alibi_detect.in -o requirements/alibi_detect.txt

generate: setup ## Write what comes from elsewhere: schemas, reference pages, charts' READMEs, compiled pipelines
	$(BIN)/python -m evergrow.spec.schema
	$(BIN)/python charts/readme.py
	$(BIN)/python -m pipelines.compile

clean: ## Remove what the demo made (.venv stays)
	rm -rf .evergrow
