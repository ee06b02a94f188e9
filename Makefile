# make run [PRESET=name]   the whole pipeline, then the table of recall and where the results lie
# make data [PRESET=name]  the data alone: what came in, what is wrong with it, and where the page lies
# make pipeline [PRESET=…] the same stages as a Prefect flow
# make test, make lint     the tests; ruff and mypy
# make test-gpu            the tests that need a GPU
# make test-all            the tests, and those of flows, servers, faults, containers and pages in a browser
# make test-wheels         has every pin a wheel for each Python? asks pip's index for minutes, after a change of pins
# make test-fresh          `make run PRESET=smoke` on a bare Debian, as root: about five minutes
# make test-containers     the image and docker/compose.yaml in a real engine
# make test-milvus         the search index in a real Milvus
# make reevaluate [BASE=…] is the model worse than that revision's (origin/main)? evaluates, never trains
# make gc                  frees the disk: what no branch, tag, experiment or preset needs leaves DVC's cache
# make mlflow              every training and evaluation, in the browser
# make sweep [PRESET=…]    fine-tunes and evaluates with each of three learning rates, or SWEEP=setting=value,value
# make serve               Prefect's pages and worker and MLflow's on this machine, until Ctrl-C
# make search              the page and the API that search the newest index, on this machine, until Ctrl-C
# make deploy              registers the deployments with the Prefect server at PREFECT_API_URL
# Each sets up .venv by itself, with the newest Python here that the pins have wheels for, or with PYTHON=…; a second
# call installs nothing. What tests and linters need is installed by `make test` and `make lint` alone.

PRESET ?= sample
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := run
.PHONY: run data sweep test test-gpu test-all test-flows test-servers test-faults test-wheels test-fresh test-containers test-milvus lint pipeline reevaluate serve deploy search mlflow gc checkout

# dvc.yaml says `python -m stages.x`: the environment comes first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# One MLflow store for all presets, one Prefect home for this checkout.
export TUWEN_TRACKING_URI ?= sqlite:///$(CURDIR)/mlflow.db
export PREFECT_HOME ?= $(CURDIR)/.prefect
# DVC keeps pickles for itself where every user of the machine may write; here nobody else can.
export DVC_SITE_CACHE_DIR ?= $(shell mkdir -p -m 700 .dvc/tmp/site)$(CURDIR)/.dvc/tmp/site
# Recipes read it from there; a path may hold spaces.
export PYTHON
# Nothing here reports to anyone.
export DO_NOT_TRACK = 1
export DVC_NO_ANALYTICS = 1
export GX_ANALYTICS_ENABLED = False
export MLFLOW_DISABLE_TELEMETRY = true
export NO_ALBUMENTATIONS_UPDATE = 1
export PREFECT_SERVER_ANALYTICS_ENABLED = false

# Variables of a notebook's, a hook's or a cluster's shell are left behind where they would break or steer a run.
settle = settled=$$(python -E -m tuwen.core.environment); eval "$$settled"
# Not the scripts in .venv/bin: those of a checkout that was copied are the old one's.
tuwen = python -m tuwen.cli

run: .venv/ready
	@$(settle); folder=$$($(tuwen) worktree '$(PRESET)'); cd "$$folder"; python -m flows.edited_outs; \
	$(tuwen) params; \
	python -m dvc repro; \
	$(tuwen) track sync || echo 'MLflow lacks these runs; the results stand'; \
	$(tuwen) results

data: .venv/ready
	@$(settle); folder=$$($(tuwen) worktree '$(PRESET)'); cd "$$folder"; python -m flows.edited_outs; \
	python -m dvc repro validate; \
	$(tuwen) quality

# One experiment of DVC for each value; what does not depend on it is made once, before them, by the first line. DVC's
# queue would run them one after the other too (docs/training.md).
sweep: export SWEEP ?= finetune.fit.lr=0.0001,0.0003,0.001
sweep: .venv/ready
	@$(settle); folder=$$($(tuwen) worktree '$(PRESET)'); cd "$$folder"; python -m flows.edited_outs; \
	python -m dvc repro baseline augment; \
	IFS=,; for value in $${SWEEP#*=}; do \
	python -m dvc exp run --temp --set-param "$${SWEEP%%=*}=$$value" evaluate@finetuned; done

# One process a core; each computes with one thread, or they would wait for each other. Whole pipelines come before units
# by their names, so that no long file is left for the end.
test: .venv/dev
	OMP_NUM_THREADS=1 python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Tests hide the GPU, or it would compute what they compare; this runs those that need one.
test-gpu: .venv/dev
	python -m pytest -rs -m gpu

# Debian: postgresql, chromium, chromium-driver, fonts-noto-cjk. ALLOW_NO_BROWSER=1 skips the browser, and says so.
test-all: test
	$(MAKE) --jobs 3 --output-sync=target test-servers test-faults test-flows test-milvus test-containers \
	test-wheels test-fresh

# Each mostly waits for one process or another, so three go on at once.
test-flows: .venv/dev
	OMP_NUM_THREADS=1 python -m pytest tests/flows

test-servers: .venv/dev
	OMP_NUM_THREADS=1 python -m pytest -rs tests/services tests/browser

test-faults: .venv/dev
	OMP_NUM_THREADS=1 python -m pytest -rs tests/faults

test-wheels: .venv/dev
	python -m pytest tests/wheels

test-fresh:
	@[ "$$(id -u)" = 0 ] && command -v debootstrap > /dev/null || { echo 'test-fresh: skipped: no root, or no debootstrap'; exit; }; \
	benchmarks/fresh_machine.sh

# The machine's Docker, or as root on Debian one of the tests' own, which asks no registry and takes .venv for the image.
# Where neither can be, the tests are skipped and say why.
test-containers: .venv/dev
	TUWEN_TEST_VENV="$${TUWEN_TEST_VENV-$(CURDIR)/.venv}" python -m pytest -rs tests/containers

# Against a real server of Milvus, 480 MB from pip's index the first time; ALLOW_NO_MILVUS=1 skips it.
test-milvus: .venv/dev
	python -m pytest -rs tests/milvus

lint: .venv/dev
	ruff check .
	ruff format --check .
	mypy

pipeline: .venv/ready
	@$(settle); exec python -m flows.pipeline --preset '$(PRESET)'
	@$(settle) 2>/dev/null; folder=$$($(tuwen) worktree '$(PRESET)'); cd "$$folder"; $(tuwen) results

serve: .venv/ready
	@$(settle); exec python -m flows.serve

search: .venv/ready
	@$(settle); exec python -m tuwen.service

deploy: .venv/ready
	@$(settle); python -m flows.deploy

# `python -m flows.reevaluate` ends with 1, 2 or 3, which say why; make itself ends with 2 whatever failed.
reevaluate: export BASE ?= origin/main
reevaluate: .venv/ready
	@$(settle); exec python -m flows.reevaluate --base "$$BASE" --preset '$(PRESET)'

mlflow: .venv/ready
	@$(settle); exec python -m mlflow server --backend-store-uri "$$TUWEN_TRACKING_URI" --host 127.0.0.1 --port 5000 \
	--allowed-hosts 127.0.0.1:5000,localhost:5000 --cors-allowed-origins http://127.0.0.1:5000,http://localhost:5000

gc: .venv/ready
	@$(settle); $(tuwen) gc

# Before anything is installed: DVC needs a git repository, which a ZIP is not, and a folder to write in; ? % and : in
# its name would mean something else in PATH and in the addresses of databases.
checkout:
	@case "$$PWD" in *[?:%]*) echo "error: $$PWD: give the folder a name without ? % and :" >&2; exit 1;; esac
	@[ -w . ] || { echo "error: $$PWD cannot be written; copy the checkout to a folder of yours" >&2; exit 1; }
	@why=$$(LC_ALL=C env -u GIT_DIR -u GIT_WORK_TREE -u GIT_INDEX_FILE git ls-files --error-unmatch dvc.yaml 2>&1) || \
	[[ "$$why" == *'dubious ownership'* ]] || { echo "error: $$PWD is no git repository with these files" \
	"($${why%%$$'\n'*}); clone it with git, or type here: git init && git add . && git commit -m start" >&2; exit 1; }

# What `make run` needs; with the tests' packages in one step where both are wanted from the start.
EXTRAS = all
.venv/dev: EXTRAS = all,dev

# The two numbers stand in pyproject.toml too (tests/repo/test_makefile.py); tests/wheels asks pip for the wheels of each version.
suitable = import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
# Compiled by all cores at once, where pip takes one; some packages carry files in the syntax of another Python, which
# fail here and are never imported: no reason to stop.
.venv/ready: pyproject.toml constraints.txt | checkout
	@names=("$$PYTHON"); [ "$$PYTHON" ] || names=(python3.14 python3.13 python3.12 python3.11 python3); \
	for python in "$${names[@]}"; do "$$python" -I -c '$(suitable)' 2>/dev/null && break; python=; done; \
	[ "$$python" ] || { echo "error: no Python 3.11 to 3.14 that has venv and ensurepip ($${names[*]}); on Debian and Ubuntu" \
	"install python3-venv, elsewhere name one: make PYTHON=/path/to/python3.13" >&2; exit 1; }; \
	set -x; "$$python" -I -m venv .venv
	.venv/bin/python -I -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e '.[$(EXTRAS)]'
	.venv/bin/python -I -m compileall -qq -j 0 .venv/lib || true
	touch $@

# cn_clip without what it asks for: of that only its trainer needs lmdb 1.3.0, which has no wheel after Python 3.10.
.venv/dev: .venv/ready
	.venv/bin/python -I -m pip install --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	.venv/bin/python -I -m pip install --disable-pip-version-check -c constraints.txt --no-deps cn_clip
	touch $@
