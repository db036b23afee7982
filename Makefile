# `make demo` and `make test` do all of their own set-up; nothing else is needed on a fresh Debian 12 or 13.
.DEFAULT_GOAL := help
.PHONY: help setup lock demo test tests test-debian13 test-newest-nft nft-tests test-deploy lint format golden bench deb debs wheel clean

VENV := .venv
PY := $(VENV)/bin/python
# More than processors: most tests wait for a daemon's timers.
WORKERS := 5

help:  ## what can be made
	@sed -n 's/^\([a-z0-9-]*\):.*##/\1\t/p' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## install what the project needs: Debian packages (as root) and .venv

$(VENV)/.ready: pyproject.toml requirements/dev.txt tools/setup.sh tools/packages.sh tools/servers.sh
	tools/setup.sh $(VENV)
	touch $@

lock:  ## write requirements/ anew, with the hashes of every file, after pyproject.toml or constraints.txt was changed
	tools/lock.sh

# One after the other to whichever process is free, in the order of tests/conftest.py: slow tests first.
SIDE_BY_SIDE := $(PY) -m pytest -n $(WORKERS) --dist load --maxschedchunk 1
# Neighbours share a lab, so each process has its own part of the tests and takes others' only when that is done.
PACKETS := $(PY) -m pytest -n 3 --dist worksteal -m "not alone" tests/packets
ALONE := $(PY) -m pytest -m alone tests/packets
# What depends on how nft reads, lists and reports rules.
NFT_TESTS := tests/test_apply.py tests/test_compiler.py tests/test_generation.py tests/test_golden.py tests/test_kernel.py \
	tests/test_monitor.py tests/test_properties.py tests/test_restore.py tests/test_ruleset.py tests/test_swapper.py \
	tests/daemon/test_tampering.py

demo: setup  ## a lab in namespaces: one client socket, three backends, who answered
	@$(VENV)/bin/nftlb demo

test: setup lint tests  ## everything, real packets included

tests: setup
	$(SIDE_BY_SIDE) --ignore tests/packets
	$(PACKETS)
	$(ALONE)

test-debian13:  ## the demo and all tests on Debian 13, in a directory that is made for it; needs root
	tools/inside.sh trixie make demo
	tools/inside.sh trixie make tests

test-newest-nft:  ## the tests of rules and packets with the nft of Debian unstable, likewise; needs root
	tools/inside.sh sid make nft-tests

nft-tests: setup
	$(SIDE_BY_SIDE) $(NFT_TESTS)
	$(PACKETS)
	$(ALONE)

# Side by side by files: the tests of a file share a machine.
test-deploy: setup $(VENV)-deploy/.ready  ## what is installed, on machines that really boot; needs root
	tools/image.sh machine bookworm >&2
	tools/image.sh machine trixie >&2
	cd deploy/ansible && PATH="$(CURDIR)/$(VENV)-deploy/current/bin:$$PATH" ansible-lint --offline
	$(PY) -m pytest -n 3 --dist loadfile --timeout 900 tests/deploy

$(VENV)-deploy/.ready: tools/ansible.sh deploy/ansible/requirements.txt deploy/ansible/requirements-bookworm.txt
	tools/ansible.sh $(VENV)-deploy
	touch $@

deb: setup  ## dist/nftlb-daemon_VERSION~debRELEASE_ARCHITECTURE.deb, for this machine's Debian
	@tools/deb.sh $(VENV) $(VERSION)

debs: setup  ## the same for Debian 12 and Debian 13; needs root
	@tools/deb-for.sh bookworm $(VENV) $(VERSION)
	@tools/deb-for.sh trixie $(VENV) $(VERSION)

wheel: setup  ## dist/nftlb-VERSION-py3-none-any.whl
	$(PY) -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w dist .

lint: setup  ## formatting, ruff, mypy
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: setup  ## put the code in order
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

golden: setup  ## write the .nft beside every rules/*.yaml anew
	$(PY) tools/golden.py

bench: setup  ## the figures that the documents quote
	$(PY) bench/run.py
	$(PY) bench/checks.py
	$(PY) bench/floods.py
	$(PY) bench/start.py

clean:  ## take away what was built
	rm -rf $(VENV) $(VENV)-deploy build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
