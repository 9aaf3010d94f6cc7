# For developing. Using is the `cloister` command; everything pretend is `python -P -m simulator`.
#   make venv          .venv with the `cloister` command, from hash-pinned locks
#   make test          the test suite; needs Python >= 3.11 and pip, nothing else
#   make test-pythons  the same on every Python from 3.11 to 3.13 found here
#   make check         ruff, mypy, import contracts, allowed modules, documents
#   make lanes         what needs Debian packages
#   make demo          the whole appliance on this machine, simulated
#   make mutants       takes every check out in turn and sees a test fail
#   make locks         write requirements/*.lock anew
.POSIX:
.SUFFIXES:

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
LOCKS = requirements/dev.lock requirements/build.lock
# JUNIT: a directory for one report per target (.ci/run counts them).
PYTEST = $(BIN)/python -P -m pytest $(if $(JUNIT),--junit-xml=$(JUNIT)/$@.xml)
TEST_ARGUMENTS =
CHECKED_TESTS = tests/contracts tests/docs

.PHONY: venv test test-pythons check lanes demo mutants locks clean

venv: $(VENV)/installed

$(VENV)/locked: $(LOCKS) requirements/venv.sh
	sh requirements/venv.sh "$(PYTHON)" "$(VENV)" $(LOCKS)
	touch $@

$(VENV)/installed: $(VENV)/locked pyproject.toml
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable . >$(VENV)/install.log 2>&1 || { cat $(VENV)/install.log; exit 1; }
	touch $@

# An environment of the enclave's lock alone, to see what its modules import; by the image's Python where it is here.
.venv-enclave/installed: requirements/enclave.lock requirements/venv.sh requirements/find-python.sh
	python=$$(sh requirements/find-python.sh 3.13); sh requirements/venv.sh "$${python:-$(PYTHON)}" .venv-enclave requirements/enclave.lock
	touch $@

test: $(VENV)/installed
	$(PYTEST) tests $(CHECKED_TESTS:%=--ignore=%) $(TEST_ARGUMENTS)

test-pythons:
	sh tests/pythons.sh

check: $(VENV)/installed .venv-enclave/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(PYTEST) $(CHECKED_TESTS) $(TEST_ARGUMENTS)

demo: $(VENV)/installed
	@$(BIN)/python -P -m simulator demo

locks: $(VENV)/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" sh requirements/compile.sh

clean:
	rm -rf $(VENV) .venv-enclave .venv-3.* build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The enclave's image and the machines that it boots on. What these need is fetched into build/.
IMAGE = build/image
KERNEL = debian
BOOTED = build/kernel-$(KERNEL)

.PHONY: base base-update init kernel kernel-debian rootfs image image-files image-twice

base:
	sh deploy/image/base.sh build/base

base-update:
	sh deploy/image/base.sh build/base update

init:
	@sh deploy/tools.sh cc=gcc /usr/include/linux/vm_sockets.h=libc6-dev
	@mkdir -p build/init
	cc -static -Os -Wall -Wextra -Werror -s -Wl,--build-id=none -o build/init/init deploy/init/init.c

kernel kernel-own:
	sh deploy/kernel/build.sh build/kernel-own

kernel-debian:
	sh deploy/kernel/debian.sh build/kernel-debian

rootfs: base
	sh deploy/image/wheels.sh "$(PYTHON)" build/wheels
	@mkdir -p $(IMAGE)
	sh deploy/image/rootfs.sh build/base/root $(IMAGE)/oci

image: $(VENV)/installed rootfs init kernel-$(KERNEL)
	sh deploy/image/eif.sh "$(BIN)/python" $(IMAGE) $(BOOTED) $(FILES)

image-files:
	$(MAKE) --no-print-directory image FILES=--write-files

image-twice: $(VENV)/installed
	sh deploy/image/twice.sh "$(BIN)/python"

# Independent implementations of the same formats, each in an environment of its own (tests/lanes/NAME.txt).
ORACLES = build/oracles

.PHONY: lane-oracles
lane-oracles: $(VENV)/installed
	@mkdir -p $(ORACLES)
	sh tests/lanes/oracle.sh "$(BIN)/python" $(ORACLES) esdk esdk-cli
	ORACLES=$(ORACLES) $(PYTEST) tests/lanes/esdk.py $(TEST_ARGUMENTS)

# Other verifiers of attestation documents on the same documents; needs Debian's faketime and the shared vectors.
.PHONY: lane-oracles-attestation lane-browser bench-verify fuzz
lane-oracles: lane-oracles-attestation
lane-oracles-attestation: $(VENV)/installed
	sh deploy/tools.sh faketime=faketime
	@mkdir -p $(ORACLES)
	sh tests/lanes/oracle.sh "$(BIN)/python" $(ORACLES) attestation
	$(BIN)/python -m tests.oracles.compare $(ORACLES)/attestation/bin/python

# The attestation report in headless Chromium; screenshots in build/browser, to be looked at.
lane-browser: $(VENV)/installed
	sh deploy/tools.sh chromium=chromium
	$(BIN)/python -m tests.browser.render build/browser

bench-verify: $(VENV)/installed
	$(BIN)/python -m bench.verify

# Coverage-guided, SECONDS for each target, then every genuine document with one byte flipped at each offset.
SECONDS = 60
fuzz: $(VENV)/installed
	@mkdir -p $(ORACLES)
	sh tests/lanes/oracle.sh "$(BIN)/python" $(ORACLES) fuzz
	$(ORACLES)/fuzz/bin/python -m tests.fuzz.run $(SECONDS)

# Triton's own clients, requests and curl against a whole simulated appliance, and the voice example; needs curl and espeak-ng.
.PHONY: lane-triton
lane-triton: $(VENV)/installed
	sh deploy/tools.sh curl=curl espeak-ng=espeak-ng
	@mkdir -p $(ORACLES)
	sh tests/lanes/oracle.sh "$(BIN)/python" $(ORACLES) triton
	ORACLES=$(ORACLES) $(PYTEST) -s tests/lanes/triton.py tests/lanes/voice.py $(TEST_ARGUMENTS)

# The machine's tests; the first is part of `lanes`, the other three are run by hand (docs/fidelity.md has their results).
.PHONY: qemu qemu-test qemu-topology qemu-pcr

qemu:
	sh simulator/qemu/qemu.sh build/qemu

# Whether Debian has moved on from base.lock is a question for releases, not for these.
qemu-test qemu-topology qemu-pcr: export BASE_MOVED = accept

lanes: qemu-test lane-oracles lane-browser lane-triton

qemu-test: image qemu
	CLOISTER_KERNEL=$(KERNEL) CLOISTER_IMAGE=$(CURDIR)/$(IMAGE)/enclave.eif $(PYTEST) tests/qemu/lane_vsock.py tests/qemu/lane_image.py $(TEST_ARGUMENTS)
	@cat $(IMAGE)/qemu-test.json

qemu-topology: image qemu
	CLOISTER_KERNEL=$(KERNEL) CLOISTER_IMAGE=$(CURDIR)/$(IMAGE)/enclave.eif $(PYTEST) tests/qemu/lane_topology.py $(TEST_ARGUMENTS)

qemu-pcr: image kernel-own qemu
	sh simulator/qemu/pcr_machine.sh build/qemu-pcr
	$(PYTEST) -rP tests/qemu/lane_pcr.py $(TEST_ARGUMENTS)

# Take each check of wire, attestation and the enclave's core out in turn; a test must fail. MUTANTS="--minutes 5 --seed 1 --modules wire.cbor"
mutants: $(VENV)/installed
	PYTHONPATH="$(CURDIR)" $(BIN)/python -P -m tests.mutants $(MUTANTS)

# Five minutes of mixed load through a sidecar, one enclave replaced in the middle; LOAD_SECONDS for less.
.PHONY: load-sidecar
LOAD_SECONDS = 300
load-sidecar: $(VENV)/installed
	$(BIN)/python -m bench.sidecar_load $(LOAD_SECONDS)

.PHONY: bench-load
bench-load: $(VENV)/installed
	@mkdir -p build
	@PYTHONPATH="$(CURDIR)" $(BIN)/python -P -m bench.load --json build/bench-load.json

# The AWS CLI against the simulated KMS, its transcript in build/oracles/awscli.md; cfn-lint over every template.
.PHONY: lane-aws
lanes: lane-aws
lane-aws: $(VENV)/installed
	@mkdir -p $(ORACLES)
	sh tests/lanes/oracle.sh "$(BIN)/python" $(ORACLES) awscli cfn-lint
	ORACLES=$(ORACLES) $(PYTEST) tests/lanes/aws.py $(TEST_ARGUMENTS)

# On an EC2 instance with Nitro Enclaves alone; never run there yet (docs/fidelity.md). STEPS="caller refusals" runs anywhere.
.PHONY: ec2-acceptance
ec2-acceptance: $(VENV)/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHON="$(CURDIR)/$(BIN)/python" sh deploy/ec2/acceptance.sh $(STEPS)
