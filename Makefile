# What the tests need beyond cargo goes below target/, out of the system's way.
PYTHON_ENV := $(CURDIR)/target/python

.PHONY: test tools

# Installs what is missing, then checks format, lints, tests and documentation.
test: tools $(PYTHON_ENV)/ready
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	LEASEWAY_TEST_PYTHON=$(PYTHON_ENV)/bin/python cargo test --locked
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# A C compiler for SQLite and TLS, Python for its OpenAI SDK, curl as a client, a browser for the dashboard; from Debian where they
# are missing.
tools:
	@cc --version >/dev/null 2>&1 && python3 -c 'import ensurepip, venv' 2>/dev/null && \
		curl --version >/dev/null 2>&1 && test -x /usr/bin/chromium || \
		{ apt-get update -qq && apt-get install -y -qq build-essential python3 python3-venv curl chromium; }

$(PYTHON_ENV)/ready: tests/requirements.txt
	python3 -m venv $(PYTHON_ENV)
	$(PYTHON_ENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@
