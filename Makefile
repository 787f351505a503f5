# One line for each task; continuous integration calls only these.
PYTHON ?= python
SECONDS ?= 60
TIMES ?= 5

.PHONY: dev build readme test cov lint types asan fuzz load bench bench-instructions check-instructions dist wheels clean check

dev:      ; $(PYTHON) -m pip install -e ".[test,examples]"
build:    ; $(PYTHON) setup.py -q build_ext --inplace
test:     ; $(PYTHON) -m pytest -q -n auto
cov:      ; $(PYTHON) -m pytest -q --cov=thestral --cov-report=term-missing
lint:     ; $(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .
types:    ; $(PYTHON) -m mypy && $(PYTHON) -m mypy.stubtest --mypy-config-file pyproject.toml --ignore-unused-allowlist --allowlist tests/typing/stubtest.txt thestral._core.coroutine thestral._core.http1 thestral._core.log thestral._core.socket thestral._core.websocket
asan:     ; THESTRAL_SANITIZE=address,undefined $(PYTHON) setup.py -q build_ext --inplace --force && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_sigbus=0 UBSAN_OPTIONS=halt_on_error=1 $(PYTHON) -m pytest -q tests/csrc tests/core tests/fuzz; status=$$?; $(PYTHON) setup.py -q build_ext --inplace --force; exit $$status
fuzz:     ; THESTRAL_FUZZ_SECONDS=$(SECONDS) $(PYTHON) -m pytest -q tests/fuzz --timeout=0
load:     ; PYTHONPATH=tests:tests/cli TIMES=$(TIMES) $(PYTHON) tests/cli/constant_load.py $(ONLY)
bench:    ; $(PYTHON) bench/peers.py $(BENCH)
bench-instructions: ; $(PYTHON) bench/instructions.py --write
check-instructions: ; $(PYTHON) bench/instructions.py --check
dist:     ; $(PYTHON) -m build
wheels:   ; $(PYTHON) -m pip install -q cibuildwheel && $(PYTHON) -m cibuildwheel --output-dir wheelhouse
readme:   ; PYTHONPATH=tests $(PYTHON) tests/readme.py
clean:    ; rm -rf build dist wheelhouse *.egg-info thestral/_csrc.c && find thestral -name '*.so' -delete
check:    lint types test
