# `make demo` and `make test` run `make setup` themselves; a new Debian 12 or 13 needs nothing else.
.DEFAULT_GOAL := help
.PHONY: help setup lock demo docs links test tests other-tests test-debian13 debian13-tests test-newest-nft nft-tests test-deploy test-zabbix lint format golden costs tables screenshots bench deb debs wheel checksums clean

VENV := .venv
PY := $(VENV)/bin/python
# More than there are processors, because most tests wait for timers of a daemon.
WORKERS := 6
# Empty, because some hosts forbid files of byte code: then each process of the tests compiles all tests, for 6 s.
export PYTHONDONTWRITEBYTECODE :=

help:  ## list all targets
	@sed -n 's/^\([a-z0-9-]*\):.*##/\1\t/p' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## install Debian packages (as root) and .venv

$(VENV)/.ready: pyproject.toml requirements/dev.txt tools/setup.sh tools/packages.sh tools/servers.sh
	tools/setup.sh $(VENV)
	touch $@

lock:  ## write requirements/ with all hashes; run it after a change of pyproject.toml or constraints.txt
	tools/lock.sh

# Each free process gets the next test, in the order of tests/conftest.py: slow tests first.
SIDE_BY_SIDE := $(PY) -m pytest -n $(WORKERS) --dist load --maxschedchunk 1
MARKED :=  # an expression of pytest's -m; empty for all tests
OFFLOAD :=  # an option of tests/conftest.py; empty for tests with and without checksum offload
# Tests of one file share a lab, so each process keeps its own part, and takes tests of others only at the end.
PACKETS = $(PY) -m pytest -n 3 --dist worksteal -m "not alone" $(OFFLOAD) tests/packets
ALONE_IN := tests/packets
ALONE = $(PY) -m pytest -m alone $(OFFLOAD) $(ALONE_IN)
# VRRP takes a balancer that is silent for a second for dead, so nothing else may keep the processors busy.
PAIR := tests/end_to_end/test_pair.py
# Tests that depend on how nft reads, lists and reports rules.
NFT_TESTS := tests/compiler/test_costs.py tests/compiler/test_golden.py tests/compiler/test_properties.py tests/daemon/test_startup.py \
	tests/end_to_end/test_tampering.py tests/kernel/test_generation.py tests/kernel/test_kernel.py \
	tests/kernel/test_ruleset_monitor.py tests/swap/test_applier.py tests/swap/test_applier_kernel.py

demo: setup  ## show nftlb at work in namespaces: one client socket, three backends
	@$(VENV)/bin/nftlb demo

test: setup lint tests  ## lint and all tests, also those with real packets

tests: other-tests
	$(PACKETS)
	$(ALONE)

other-tests: setup
	$(SIDE_BY_SIDE) -m "$(MARKED)" $(OFFLOAD) --ignore tests/packets --ignore $(PAIR)
	$(PY) -m pytest -n 2 $(PAIR)

# CONTRIBUTING.md says which tests are left out here and below, and why.
test-debian13:  ## the demo and the tests in a root directory with Debian 13; needs root
	tools/inside.sh trixie make demo
	tools/inside.sh trixie make debian13-tests

debian13-tests: MARKED := not slow and not kernel
debian13-tests: OFFLOAD := --offload-only
debian13-tests: other-tests
	$(PY) -m pytest -n 3 --dist worksteal $(OFFLOAD) tests/packets/test_spread.py

test-newest-nft:  ## the tests of rules and packets with the nft of Debian unstable; needs root
	tools/inside.sh sid make nft-tests

# The rules are the same with and without offload, so each nft reads the same text twice.
nft-tests: OFFLOAD := --offload-only
# Of the tests under full load, those of swaps meet all transactions that this nft makes.
nft-tests: ALONE_IN := tests/packets/test_swaps.py tests/packets/test_reloads_under_fire.py
nft-tests: setup
	$(SIDE_BY_SIDE) $(NFT_TESTS)
	$(PACKETS)
	$(ALONE)

# --dist loadfile: the tests of a file share a machine.
test-deploy: setup $(VENV)-deploy/.ready  ## the tests of the installed package on machines that boot; needs root
	tools/image.sh machine bookworm >&2
	tools/image.sh machine trixie >&2
	cd deploy/ansible && PATH="$(CURDIR)/$(VENV)-deploy/current/bin:$$PATH" ansible-lint --offline
	$(PY) -m pytest -n 3 --dist loadfile --timeout 900 tests/deploy

test-zabbix:  ## import the template of deploy/monitoring with the code of Zabbix itself
	tools/zabbix.sh $(VENV)-zabbix

$(VENV)-deploy/.ready: tools/ansible.sh deploy/ansible/requirements.txt deploy/ansible/requirements-bookworm.txt
	tools/ansible.sh $(VENV)-deploy
	touch $@

deb: setup  ## build dist/nftlb-daemon_VERSION~debRELEASE_ARCHITECTURE.deb for this machine's Debian
	@tools/deb.sh $(VENV) $(VERSION)

debs: setup  ## build the packages for Debian 12 and Debian 13; needs root
	@tools/deb-for.sh bookworm $(VENV) $(VERSION)
	@tools/deb-for.sh trixie $(VENV) $(VERSION)

wheel: setup  ## build dist/nftlb-VERSION-py3-none-any.whl
	$(PY) -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w dist .

checksums:  ## write dist/SHA256SUMS with the hashes of the packages in dist
	cd dist && find . -name '*.deb' -o -name '*.whl' | sed 's|^\./||' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS
	@cat dist/SHA256SUMS

lint: setup  ## check formatting, code, types and words
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(PY) tools/prose.py

format: setup  ## format the code, and fix what ruff can fix
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

golden: setup  ## write the .nft files of rules/ again
	$(PY) tools/golden.py

costs: setup  ## write the table of what packets cost again; read the difference before you commit it
	$(PY) tests/support/cost_table.py

tables: setup  ## write the tables of docs/ that come from the code again: metrics, events and exit statuses
	$(PY) tests/support/reference_tables.py

docs: setup $(VENV)-docs/.ready  ## build dist/site from the documents; a broken link or heading is an error
	PYTHONPATH=. $(PY) tools/reference.py build/reference
	$(VENV)-docs/bin/python -m sphinx --fail-on-warning --nitpicky --fresh-env --quiet --jobs auto -c docs/site -d build/site . dist/site

$(VENV)-docs/.ready: tools/environment.sh requirements/docs.txt
	tools/environment.sh $(VENV)-docs requirements/docs.txt
	touch $@

links: setup  ## visit the pages of other sites that the documents link to; needs the Internet
	$(PY) tools/links.py

screenshots: setup  ## take the pictures of the web page in docs/images/ again; look at them before you commit them
	$(PY) tools/screenshots.py

bench: setup  ## measure the figures in the documents
	$(PY) bench/run.py
	$(PY) bench/checks.py
	$(PY) bench/floods.py
	$(PY) bench/start.py

clean:  ## delete all that was built
	rm -rf $(VENV) $(VENV)-zabbix $(VENV)-deploy $(VENV)-bench $(VENV)-docs build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
