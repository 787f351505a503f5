# One line per task; continuous integration calls only these.
PYTHON ?= python
SECONDS ?= 60
TIMES ?= 5
EXTRAS ?= test,examples,docs
SITE ?= site
WHEEL ?= $(wildcard wheelhouse/*.whl)
STUBS = $(patsubst thestral/_core/%.pyi,thestral._core.%,$(wildcard thestral/_core/*.pyi))
SCRIPTS = PATH="$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$$PATH"
SANITIZERS = LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_sigbus=0 UBSAN_OPTIONS=halt_on_error=1

.PHONY: system install dev build test quick compat cov lint types asan fuzz fuzz-c load fleet screenshots accelerate-suites accelerate-anyio accelerate-third-parties accelerate-newest accelerate-fuzz accelerate-proof accelerate-verify soak bench bench-instructions check-instructions budget docs docs-serve check-tag sdist wheel wheels check-wheel smoke lowest readme unused workflows clean check

system:   ; sudo apt-get update -qq && sudo apt-get install -y -qq --no-install-recommends valgrind $$($(PYTHON) tests/programs.py)
install:  ; $(PYTHON) -m pip install -e ".[$(EXTRAS)]"
dev:      ; $(PYTHON) -m pip install -e ".[dev]"
build:    ; $(PYTHON) setup.py -q build_ext --inplace
test:     ; $(PYTHON) -m pytest -q -n auto
quick:    ; $(PYTHON) -m pytest -q -n auto tests/core tests/csrc tests/server/test_config.py tests/cli/test_command_line.py tests/smoke
compat:   ; $(PYTHON) -m pytest -q tests/compat/heavy
cov:      ; $(PYTHON) -m pytest -q --cov=thestral --cov-report=term-missing
lint:     ; $(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .
types:    ; $(PYTHON) -m mypy && $(PYTHON) -m mypy --strict tests/typing && $(PYTHON) -m pyright tests/typing && $(PYTHON) -m mypy.stubtest --mypy-config-file pyproject.toml --ignore-unused-allowlist --allowlist tests/typing/stubtest.txt $(STUBS)
asan:     ; THESTRAL_SANITIZE=address,undefined $(PYTHON) setup.py -q build_ext --inplace --force && $(SANITIZERS) $(PYTHON) -m pytest -q tests/csrc tests/core tests/fuzz; status=$$?; $(PYTHON) setup.py -q build_ext --inplace --force; exit $$status
fuzz:     ; THESTRAL_FUZZ_SECONDS=$(SECONDS) $(PYTHON) -m pytest -q tests/fuzz --timeout=0
fuzz-c:   ; PYTHONPATH=tests:tests/fuzz:tests/http2 $(PYTHON) tests/fuzz/fuzz_c.py --seconds $(SECONDS)
load:     ; PYTHONPATH=tests:tests/cli:tests/http2:tests/websocket TIMES=$(TIMES) $(PYTHON) tests/cli/constant_load.py $(ONLY)
fleet:    ; PYTHONPATH=tests:tests/cli:tests/http2:tests/websocket:tests/compat $(PYTHON) tests/cli/fleet.py
screenshots: ; PYTHONPATH=tests:tests/cli:tests/admin $(PYTHON) tests/admin/screenshots.py
accelerate-suites: ; $(PYTHON) tests/accelerate/suites.py $(SUITES)
accelerate-third-parties: ; $(PYTHON) tests/accelerate/third_parties.py
accelerate-newest: ; $(PYTHON) -m pip install --upgrade fastapi starlette pydantic anyio opentelemetry-api
accelerate-anyio: ; $(PYTHON) tests/accelerate/suites.py --suites anyio $(SUITES)
accelerate-fuzz: ; THESTRAL_FUZZ_SECONDS=$(SECONDS) $(PYTHON) -m pytest -q tests/accelerate/test_generated.py
accelerate-proof: ; $(PYTHON) -m pytest -q tests/accelerate && $(PYTHON) tests/accelerate/suites.py $(SUITES)
accelerate-verify: ; $(PYTHON) -m thestral.accelerate.verify --add --if "make accelerate-proof PYTHON=$(PYTHON)"
soak:     ; PYTHONPATH=tests/cli $(PYTHON) bench/soak.py
bench:    ; $(PYTHON) bench/peers.py $(BENCH)
bench-instructions: ; $(PYTHON) bench/instructions.py --write
check-instructions: ; $(PYTHON) bench/instructions.py --check
budget:   ; $(PYTHON) bench/budget.py origin/$(BASE)
docs:     ; NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet --site-dir "$(SITE)"
docs-serve: ; NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs serve --strict
check-tag: ; grep -qx '__version__ = "$(TAG:v%=%)"' thestral/__init__.py && grep -qE '^## $(TAG:v%=%) \([0-9]{4}-' CHANGELOG.md
sdist:    ; $(PYTHON) -m build --sdist
wheel:    ; rm -rf dist wheelhouse && $(PYTHON) -m build && $(SCRIPTS) auditwheel repair --wheel-dir wheelhouse dist/*.whl
wheels:   ; rm -rf dist wheelhouse && $(PYTHON) -m build --sdist && $(PYTHON) -m cibuildwheel --output-dir wheelhouse dist/*.tar.gz
check-wheel: ; $(PYTHON) tests/wheel.py $(WHEEL)
smoke:    ; $(PYTHON) -P -m pytest -q -c tests/smoke/pytest.ini tests/smoke
lowest:   ; $(PYTHON) tests/lowest.py
readme:   ; PYTHONPATH=tests $(PYTHON) tests/documents.py
unused:   ; $(PYTHON) -m vulture
workflows: ; $(SCRIPTS) zizmor --offline --quiet .github
clean:    ; rm -rf build dist wheelhouse site *.egg-info thestral/_csrc.c && find thestral -name '*.so' -delete
check:    lint types test
