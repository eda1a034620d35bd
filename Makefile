# make demo   real jobs on this machine, in a minute
# make test   everything, on real schedulers; installs what is missing
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
OLDEST := .venv-oldest
REPORTS := build/test-reports
PIP := -m pip install -q --disable-pip-version-check
PYTEST := -m pytest -q -p no:cacheprovider
LANES := slurm sge sshd kubernetes
# The lane on Kubernetes comes late: the first time on a machine it waits for what is built meanwhile.
PARTS := lint types $(filter-out kubernetes,$(LANES)) fast oldest kubernetes slow docs

# For the tests of the HTML report, which are skipped without one; 100 MB where it must be fetched.
BROWSERS := chromium-headless-shell chromium chromium-browser google-chrome

comma := ,
# It is for the lanes alone: the other parts see the environment that a user's tests see.
unexport CLUSTERJOBS_REQUIRE_LANES
REQUIRED := $(subst $(comma), ,$(CLUSTERJOBS_REQUIRE_LANES))

.PHONY: help demo test parts clean venv $(PARTS)

help:
	@sed -n 's/^# //p' Makefile

# A venv whose Python is gone is made anew.
define make_venv
	@[ ! -e $(1) ] || $(1)/bin/python -c '' 2>/dev/null || rm -rf $(1)
	@[ -e $(1)/bin/python ] || { python=$$(.ci/python $(2)) && echo "$(1): $$python" && "$$python" -m venv $(1); }
endef

venv:
	$(call make_venv,$(VENV),newest)

$(VENV)/.demo: pyproject.toml | venv
	@$(VENV)/bin/python $(PIP) -e .
	@touch $@

$(VENV)/.test: pyproject.toml | venv
	@$(VENV)/bin/python $(PIP) -e '.[test,docs]'
	@touch $@ $(VENV)/.demo

$(OLDEST)/.test: pyproject.toml
	$(call make_venv,$(OLDEST),oldest)
	@$(OLDEST)/bin/python $(PIP) -e '.[xdist]' 'pytest<9'
	@touch $@

demo: $(VENV)/.demo
	cd conftest_examples/quickstart && ../../$(VENV)/bin/pytest -m real_world -v

# A lane that cannot start is an error where we could have installed what it needs, and skipped with the reason elsewhere.
# The parts overlap: lanes on schedulers mostly wait.
test: $(VENV)/.test $(OLDEST)/.test
	@rm -rf $(REPORTS) && mkdir -p $(REPORTS)
	@command -v $(BROWSERS) >/dev/null || .ci/packages chromium-headless-shell || true
	@required='$(REQUIRED)'; if .ci/packages; then required='$(filter-out kubernetes,$(LANES))'; fi; \
	if .ci/has-node-rights; then \
	  required="$$required kubernetes"; \
	  nice -n 5 $(VENV)/bin/python tests/kubernetes_lane/build.py >$(REPORTS)/kubernetes-build.log 2>&1 & \
	fi; \
	code=0; $(MAKE) --no-print-directory -k -j2 --output-sync=target REQUIRED="$$required" $(PARTS) || code=1; \
	$(VENV)/bin/python .ci/report.py $$required || code=1; \
	exit $$code

lint:
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types:
	$(VENV)/bin/mypy

docs:
	$(VENV)/bin/sphinx-build -q -W -n --keep-going -b html docs build/docs

fast:
	$(VENV)/bin/python $(PYTEST) -n2 -m 'not cluster_lane and not slow' --junitxml=$(REPORTS)/fast.xml

oldest:
	$(OLDEST)/bin/python $(PYTEST) -n2 -m 'not cluster_lane and not slow' --junitxml=$(REPORTS)/oldest.xml

slow:
	$(VENV)/bin/python $(PYTEST) -m 'slow and not cluster_lane' --junitxml=$(REPORTS)/slow.xml

$(LANES):
	CLUSTERJOBS_REQUIRE_LANES=$(subst $() ,$(comma),$(REQUIRED)) $(VENV)/bin/python $(PYTEST) \
	  -m cluster_lane -k lane_$@ --junitxml=$(REPORTS)/$@.xml

clean:
	rm -rf $(VENV) $(OLDEST) build dist .mypy_cache .ruff_cache .pytest_cache
