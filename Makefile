# Everything below needs Python 3.10 or newer, make and a package registry, nothing else.
#
#   make demo    the whole story on this machine, on the embedded broker
#   make test    lint, types, docs and all tests, against real Redis, RabbitMQ and PostgreSQL
#   make slow    the tests that take minutes and rarely fail
#   make bench   the benchmarks
#   make fuzz    every door against a coverage-guided fuzzer: SECONDS=60 of processor time each, TARGETS="url …" for some
#   make attacks plants mistakes in what checks signatures, and sees each noticed by an attack of tests/signing
#   make soak    randomised faults over real processes for SECONDS=60, from SEED=… on; writes docs/reliability.md
#   make reliability   the targets of docs/reliability.md, measured anew
#   make simulate SCHEDULES=100000   a simulated fleet under faults; SEED=4711 shows one schedule again
#   make versions  the tests of transports on each minor version of Kombu, and of the Celery guest on each of Celery, that are supported
#   make celery-suite  Celery's own tests with and without the line, and what differs: PARTS=unit for those without servers
#   make transports  what works on each broker that this machine has, measured: NAMES="sqs etcd …" for some; writes docs/transports.md
#   make docs    the documentation, in docs/_build/html
#   make format  mends what the linter can mend by itself
#   make clean   removes what these made
#   make soak-resources   200,000 tasks and 20,000 commands through a worker on each broker, 100 clients killed: what is left

SHELL := /bin/sh
VENV := .venv
TOX := $(VENV)/bin/tox run -q

.PHONY: demo test slow versions celery-suite bench fuzz attacks simulate soak soak-resources reliability transports docs format clean

demo: $(VENV)/.installed
	@$(VENV)/bin/stem demo

test: $(VENV)/.tox-installed
	@scripts/provide-servers.sh
	@$(TOX)

slow: $(VENV)/.tox-installed
	@scripts/provide-servers.sh
	@$(TOX) -e slow

versions: $(VENV)/.tox-installed
	@scripts/provide-servers.sh
	@for version in kombu54 kombu55 kombu56 celery54 celery55 celery56 celery57; do $(TOX) -e $$version || exit 1; done

PARTS := all
celery-suite: $(VENV)/.tox-installed
	@scripts/provide-servers.sh
	@$(TOX) -e celery-suite -- --parts $(PARTS)

bench: $(VENV)/.tox-installed
	@scripts/provide-servers.sh
	@$(TOX) -e bench

SECONDS := 60
TARGETS :=
fuzz: $(VENV)/.tox-installed
	@$(TOX) -e fuzz -- --seconds $(SECONDS) $(TARGETS)

attacks: $(VENV)/.tox-installed
	@scripts/provide-servers.sh
	@$(TOX) -e attacks

SEED :=
soak: $(VENV)/.tox-installed
	@scripts/provide-servers.sh
	@$(TOX) -e soak -- $(SECONDS) $(if $(SEED),--seed $(SEED))

reliability: $(VENV)/.tox-installed
	@scripts/provide-servers.sh
	@$(TOX) -e reliability

NAMES :=
transports: $(VENV)/.tox-installed
	@scripts/provide-servers.sh
	@$(TOX) -e transports -- $(NAMES)

TASKS := 200000
COMMANDS := 20000
KILLS := 100
OUT := soak-resources.json
soak-resources: $(VENV)/.tox-installed
	@scripts/provide-servers.sh
	@$(TOX) -e soak-resources -- --tasks $(TASKS) --commands $(COMMANDS) --kills $(KILLS) --out $(OUT)

SCHEDULES := 100000

simulate: $(VENV)/.tox-installed
	@$(TOX) -e simulate -- $(if $(SEED),--seed $(SEED),--schedules $(SCHEDULES))

docs: $(VENV)/.tox-installed
	@$(TOX) -e docs

format: $(VENV)/.tox-installed
	@$(TOX) -e format

clean:
	rm -rf $(VENV) .tox build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@scripts/make-venv.sh $(VENV)

$(VENV)/.installed: $(VENV)/bin/python setup.cfg pyproject.toml
	@echo "installing stem-kombu into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.tox-installed: $(VENV)/bin/python
	@echo "installing tox into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'tox>=4.11'
	@touch $@
