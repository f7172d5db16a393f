# Two commands matter: `make demo` and `make test`. Both do all their own set-up.
PYTHON ?= python3
ARGS ?=
EXTRAS ?=
VENV := .venv
CORE := .venv-core
BIN := $(CURDIR)/$(VENV)/bin
# AIRFLOW=3.4 runs the tests of Airflow on that version, pinned in requirements/airflow-3.4.txt.
AIRFLOW ?=
AIRFLOW_VENV := $(if $(AIRFLOW),.venv-airflow-$(AIRFLOW),$(VENV))
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
PYTEST := -m pytest -q
# Every process would compile all of Loadsheet: 0.38 instead of 0.22 s of a core for a check.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-long test-unit test-core test-core-a-l test-core-m-z test-faults test-faults-a-l test-faults-m-z test-editors test-page test-packaging test-airflow test-airflow-alone test-airflow-shared test-lineage test-compose test-celery lint format docs reference clean requirements bench bench-peers build image sbom audit release

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready  ## Create .venv with pinned, hashed requirements and the loadsheet command

demo: setup  ## Flights end to end in a real Airflow on embedded servers (ARGS=--exit to stop at the end)
	@$(BIN)/python -m demo $(ARGS)

# Six at a time on 2 cores: half of the time a suite waits for a disk, a lock or a timeout. The long
# suites are in two parts each, because what is left alone at the end waits alone. The longest ones
# come first. Each waits for its own environment alone: the core's is there in a minute, Airflow's
# in three. The short suites wait for Airflow's as well: make gives the first place that is free to
# the suite at which it has stopped for want of one, and Airflow's, the longest, would begin last.
test:  ## Run every test (short forms), under 20 minutes on 2 cores
	@$(MAKE) --no-print-directory -j6 --output-sync=recurse TOGETHER=1 test-airflow-shared test-airflow-alone test-core-a-l test-core-m-z test-faults-a-l test-faults-m-z test-page test-editors test-unit test-packaging test-lineage

ifdef TOGETHER
test-page test-editors test-unit tests/editors/node_modules/.ready tests/page/node_modules/.ready: | $(AIRFLOW_VENV)/.ready
endif

test-unit: $(CORE)/.ready  ## Tests that need no services, in seconds, without Airflow
	$(CORE)/bin/python $(PYTEST) tests/unit

test-editors: $(CORE)/.ready tests/editors/node_modules/.ready  ## The real YAML language server on pipeline files
	$(CORE)/bin/python $(PYTEST) tests/editors

test-page: $(CORE)/.ready tests/page/node_modules/.ready  ## The page of loadsheet ui in a real browser, if there is one
	$(CORE)/bin/python $(PYTEST) tests/page

test-core: $(CORE)/.ready  ## The engine on real PostgreSQL and S3, without Airflow
	$(CORE)/bin/python $(PYTEST) tests/core

test-core-a-l test-core-m-z: test-core-%: $(CORE)/.ready
	$(CORE)/bin/python $(PYTEST) tests/core/test_[$*]*.py

test-faults: $(CORE)/.ready  ## What may break, broken on purpose; ends with a table of rows lost and duplicated
	$(CORE)/bin/python $(PYTEST) tests/faults

test-faults-a-l test-faults-m-z: test-faults-%: $(CORE)/.ready
	$(CORE)/bin/python $(PYTEST) tests/faults/test_[$*]*.py

test-airflow: $(AIRFLOW_VENV)/.ready  ## Factory, operators and the real scheduler (AIRFLOW=3.4 for the next Airflow)
	$(CURDIR)/$(AIRFLOW_VENV)/bin/python $(PYTEST) tests/airflow

test-airflow-shared test-airflow-alone: test-airflow-%: $(AIRFLOW_VENV)/.ready
	$(CURDIR)/$(AIRFLOW_VENV)/bin/python $(PYTEST) -m $(if $(filter shared,$*),shared_world,"not shared_world") tests/airflow

test-packaging: setup  ## The wheel in new environments: from an empty folder to rows and a DAG
	$(BIN)/python $(PYTEST) tests/packaging

test-lineage: setup .venv-openlineage/.ready  ## What Airflow's OpenLineage provider makes of our operators
	PYTHONPATH=.venv-openlineage $(BIN)/python $(PYTEST) tests/airflow/test_lineage.py

test-compose: $(CORE)/.ready  ## The containers on a Docker engine: runs, a stopped worker, an upgrade (10 minutes)
	$(CORE)/bin/python $(PYTEST) -rs tests/compose

test-celery: setup .venv-celery/.ready  ## Two Celery workers with files and users of their own, one of them killed (4 minutes; needs root and redis-server)
	PYTHONPATH=.venv-celery $(BIN)/python $(PYTEST) -rs tests/airflow/test_celery.py

test-long: setup $(CORE)/.ready  ## The same suites in their long forms, hours of them; the table comes last
	LOADSHEET_LONG=1 $(CORE)/bin/python $(PYTEST) tests/unit tests/core
	LOADSHEET_LONG=1 $(BIN)/python $(PYTEST) tests/airflow
	LOADSHEET_LONG=1 $(CORE)/bin/python $(PYTEST) tests/faults
	$(CORE)/bin/python $(PYTEST) -p tests.pooled tests/core
	LOADSHEET_POSTGRES=18 $(CORE)/bin/python $(PYTEST) tests/core tests/faults
	LOADSHEET_POSTGRES=debian $(CORE)/bin/python $(PYTEST) tests/core tests/faults

PEERS := limit,auto,ingestr,dlt connectorx,dlt pyarrow,sling

bench: setup .venv-bench/.ready  ## Measure this machine: Loadsheet, the bare pipe, memory, growth (about an hour)
	@$(BIN)/python -m bench.transfer full --json bench/results/full_medium.json
	@$(BIN)/python -m bench.transfer full --of large:10000000 --times 3 --who "limit,auto,no overlap" --json bench/results/full_large.json
	@$(BIN)/python -m bench.transfer full --of large:3000000 --times 3 --who "limit,auto,no overlap" --json bench/results/full_overlap_large.json
	@$(BIN)/python -m bench.transfer full --of large:1500000x2 --times 3 --who limit,auto --json bench/results/full_overlap_two.json
	@$(BIN)/python -m bench.transfer full --of random:3000000 --times 3 --who limit,auto --json bench/results/full_overlap_random.json
	@$(BIN)/python -m bench.transfer increment --json bench/results/increment_medium.json
	@$(BIN)/python -m bench.transfer full --of wide:50000 --times 3 --json bench/results/full_wide.json
	@$(BIN)/python -m bench.transfer full --of cells:1000 --times 3 --json bench/results/full_cells.json
	@$(BIN)/python -m bench.transfer full --of tiny:1000 --times 3 --who limit,auto --json bench/results/full_tiny.json
	@$(BIN)/python -m bench.dag --json bench/results/dag.json
	@$(BIN)/python -m bench.memory --json bench/results/memory.json
	@$(BIN)/python -m bench.growth --json bench/results/growth.json
	@$(BIN)/python -m bench.idle --json bench/results/idle.json
	@$(BIN)/python -m bench.merging --json bench/results/merging.json
	@$(BIN)/python -m bench.verify equal --json bench/results/verify.json
	@$(BIN)/python -m bench.verify deletes --json bench/results/deletes.json
	@$(BIN)/python -m bench.factory --json bench/results/factory.json
	@$(BIN)/python -m bench.parsing --json bench/results/parsing.json
	@.venv-bench/bin/python -m bench.plots
	@$(BIN)/python -m bench.report

bench-peers: setup  ## The same for sling, dlt, ingestr and DataFrames, in separate environments
	@$(BIN)/python -m bench.transfer full --times 3 --who "$(PEERS)" --json bench/results/peers_full.json
	@$(BIN)/python -m bench.transfer increment --who "$(PEERS)" --json bench/results/peers_increment.json
	@$(BIN)/python -m bench.transfer increment --recent --share 0.01 --who "$(PEERS)" --json bench/results/peers_increment_recent.json
	@$(BIN)/python -m bench.transfer full --of small --times 1 --who "auto,DataFrame,DataFrame one at a time,DataFrame by pangres" --json bench/results/peers_dataframe.json
	@$(BIN)/python -m bench.report

lint: setup  ## Style, types, Airflow rules and the import law
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup  ## Put the code in the one style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv-docs/.ready  ## Build the documentation's site into build/site; a broken link or anchor is an error
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "build/site/index.html: $$(find build/site -name '*.html' | wc -l) pages"

reference: setup  ## Write the generated pages again: docs/spec.md, docs/cli.md, docs/rules.md
	@mkdir -p build
	$(BIN)/python docs/spec_reference.py > build/spec.md && mv build/spec.md docs/spec.md
	$(BIN)/python docs/cli_reference.py > build/cli.md && mv build/cli.md docs/cli.md
	$(BIN)/python docs/rules_reference.py > build/rules.md && mv build/rules.md docs/rules.md
	cp loadsheet/schemas/*.json schemas/

build: setup  ## The wheel and the sdist into dist/, with the pinned tools, and a check of both
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist .
	@$(BIN)/python scripts/release.py artefacts

IMAGE ?= $(shell sed -n 's/^  image: \(loadsheet-airflow:.*\)/\1/p' docker-compose.yml)

image:  ## Build the container image that docker-compose.yml uses (IMAGE=name:tag; EXTRAS="amazon fab git hashicorp kubernetes redis statsd")
	docker build --build-arg EXTRAS="$(EXTRAS)" --tag $(IMAGE) .

sbom: .venv-sbom/.ready  ## CycloneDX bills of materials: build/sbom.json of the image (EXTRAS as above), build/sbom-wheel.json
	@mkdir -p build
	@cat requirements.txt $(patsubst %,requirements/%.txt,celery $(EXTRAS)) > build/sbom.txt
	@cp requirements/core.txt build/sbom-wheel.txt
	@for bill in sbom sbom-wheel; do \
	  .venv-sbom/bin/cyclonedx-py requirements build/$$bill.txt --output-reproducible -o build/$$bill.json \
	  && .venv-sbom/bin/python scripts/sbom.py build/$$bill.json build/$$bill.txt || exit; done

audit:  ## Compare the pins with the known vulnerabilities; needs pipx and the network
	@for pins in requirements.txt requirements/core.txt requirements/airflow-3.4.txt $(IMAGE_EXTRAS:%=requirements/%.txt); do \
	  echo "$$pins"; pipx run pip-audit --disable-pip --require-hashes -r $$pins || exit; done

release: setup  ## All of a release that needs no credentials; prints the two commands that remain
	@$(BIN)/python scripts/release.py check
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory docs
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory build
	@$(BIN)/python scripts/release.py commands

clean:  ## Remove environments, caches and the demo's state
	rm -rf $(VENV) $(CORE) .venv-airflow-* .venv-bench* .venv-celery .venv-docs .venv-openlineage .venv-sbom tests/*/node_modules build dist .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What the image may have: pinned together, so that any of them can be chosen.
IMAGE_EXTRAS := amazon celery fab git hashicorp kubernetes redis statsd

requirements:  ## Pin requirements/*.in again (needs uv)
	cd requirements && $(COMPILE) dev.in -o dev.txt && $(COMPILE) airflow.in -c dev.txt -o ../requirements.txt \
	  && $(COMPILE) core.in -c dev.txt -o core.txt \
	  && $(COMPILE) core-test.in -c dev.txt -o core-test.txt \
	  && $(COMPILE) airflow-3.4.in -c core-test.txt -o airflow-3.4.txt && $(COMPILE) bench.in -c dev.txt -o bench.txt \
	  && $(COMPILE) docs.in -c dev.txt -o docs.txt \
	  && $(COMPILE) sbom.in -c dev.txt -o sbom.txt \
	  && together=$$(mktemp) && $(COMPILE) $(IMAGE_EXTRAS:%=%.in) -c dev.txt -c ../requirements.txt -o $$together \
	  && for extra in $(IMAGE_EXTRAS) openlineage parquet; do $(COMPILE) $$extra.in -c dev.txt -c $$together -o $$extra.txt \
	    $$(sed -n "/win32/!s/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p" ../requirements.txt) || exit; done
	cd bench/peers/requirements && for peer in *.in; do $(COMPILE) $$peer -o $${peer%.in}.txt; done

$(VENV)/.ready: requirements/dev.txt pyproject.toml
	$(call environment,$(VENV),requirements/dev.txt)

$(CORE)/.ready: requirements/core-test.txt pyproject.toml
	$(call environment,$(CORE),requirements/core-test.txt)

.venv-airflow-%/.ready: requirements/airflow-%.txt pyproject.toml
	$(call environment,.venv-airflow-$*,requirements/airflow-$*.txt)

.venv-bench/.ready: requirements/bench.txt
	$(call environment,.venv-bench,requirements/bench.txt)

tests/%/node_modules/.ready: tests/%/package-lock.json | $(CORE)/.ready
	@$(CORE)/bin/python -m tests.npm tests/$* && touch $@

.venv-sbom/.ready: requirements/sbom.txt
	$(call environment,.venv-sbom,requirements/sbom.txt)

# A provider alone; Airflow is in the other environment.
.venv-celery/.ready .venv-openlineage/.ready: .venv-%/.ready: requirements/%.txt $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes --target .venv-$* -r requirements/$*.txt
	@touch $@

.venv-docs/.ready: requirements/docs.txt
	$(call environment,.venv-docs,requirements/docs.txt)

# Most of the modules are never imported, and Python compiles a module when it is. Of what pip says,
# its warnings are kept: its whole log was 26 MB for .venv-core and 65 MB for .venv. Without both,
# .venv-core takes 27 instead of 42 s of a core.
# Both environments are made at the same time, and setuptools writes into the checkout.
ALONE := $(PYTHON) -c 'import fcntl, subprocess, sys; lock = open("pyproject.toml"); fcntl.flock(lock, fcntl.LOCK_EX); sys.exit(subprocess.call(sys.argv[1:]))'

define environment
	@echo "setting up $(1) from $(2)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Loadsheet needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv --clear $(1)
	@trap 'cat $(1)/pip.log >&2' EXIT; 2>$(1)/pip.log $(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r $(2)
	@! grep -h 'is a yanked version' $(1)/pip.log || { echo "$(2) pins a version that was yanked: make requirements" >&2; exit 1; }
	@$(ALONE) $(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index --no-build-isolation -e .
	@touch $@
endef
