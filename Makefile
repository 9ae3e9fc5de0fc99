# `make tutorial` and `make test` need only Python 3.11 or later and make: the rest goes into .venv, once.
#
#   PYTHON       the interpreter that creates .venv                     make tutorial PYTHON=python3.12
#   TORCH_ARGS   more arguments for pip when it installs PyTorch        see README.md: a build without CUDA
#   PYTEST_ARGS  replaces the arguments of the test run                 make test PYTEST_ARGS="-k world"

PYTHON      ?= python3
TORCH_ARGS  ?=
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder tests

BIN   := .venv/bin
PIP   := $(BIN)/python -m pip --disable-pip-version-check
READY := .venv/.ready
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements.lock)

.PHONY: help tutorial test lint lab picture bench book executed lock clean

help:
	@echo "make tutorial   run the notebooks and write runs/tutorial/index.html"
	@echo "make test       lint, tests, and the marked cells of notebook 01"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make lint       ruff alone"
	@echo "make picture    draw the README's pictures again"
	@echo "make bench      ratios measured on this machine"
	@echo "make book       build the site from executed notebooks, into book/_build/html"
	@echo "make executed   run the notebooks for the site, under the profile ci"
	@echo "make lock       resolve requirements.lock and environment.yml again (needs uv)"
	@echo "make clean      remove caches and builds; .venv and runs/ stay"

tutorial: $(READY)
	@$(BIN)/python -m lrt.cli tutorial

# nbval runs every cell of a notebook and, being lax, compares only those marked `# NBVAL_CHECK_OUTPUT`.
# 01 alone: the later notebooks train, and the tests already run them whole.
test: export HF_HUB_OFFLINE = 1
test: lint
	@$(BIN)/python -m pytest $(PYTEST_ARGS)
	@$(if $(wildcard notebooks/01_data.ipynb),$(BIN)/python -m pytest --nbval-lax --nbval-current-env notebooks/01_data.ipynb)

lint: $(READY)
	@$(BIN)/python -m ruff check .

lab: $(READY)
	@$(BIN)/python -m jupyterlab notebooks

# The README's pictures: of one run of the main job, and of the study, with the lines below it.
picture: $(READY)
	@$(BIN)/python -c "from lrt import stats; from lrt.course import page; page.draw_overview(stats.load_records('data/results/one_seed.json'), {}, 'runs/picture')"
	@mkdir -p book/figures && cp runs/picture/accuracy_by_split.png book/figures/
	@$(BIN)/python -m lrt.study.page

bench: $(READY)
	@$(BIN)/python -m lrt.cli bench

# Nothing is run for the book, and after its first time nothing is fetched.
book: $(READY)
	@$(BIN)/python -m lrt.cli book build

executed: $(READY)
	@$(BIN)/python -m lrt.cli book refresh

# Made anew when the lock or pyproject.toml is newer; otherwise a second call starts at once.
# PyTorch comes first and by exact version, so that nothing else can choose a build of it, and loudly, for it is the
# long part. On Linux it brings its own CUDA packages, which is why the lock does not name them. Bytecode is left to
# the first import: compiling it for every package costs about a minute. But where PYTHONDONTWRITEBYTECODE is set, as in
# many containers, no import would ever keep it, and each process (a kernel, a run of the study) would compile 3,000
# modules anew, for 7 seconds: there it is done here. Files that are no Python for this version are passed over.
$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/pip || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "lrt needs Python 3.11 or later, and '$(PYTHON)' is older or missing. Name another: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "'$(PYTHON) -m venv' failed. Some Linux systems keep venv in a package of its own (python3-venv)."; exit 1; }
	@echo "Setting up .venv, once. 1 of 3: $(TORCH) ..."
	@$(PIP) install --no-compile $(TORCH) $(TORCH_ARGS)
	@echo "2 of 3: the other packages of requirements.lock; a few minutes, quietly ..."
	@$(PIP) install --quiet --no-compile -r requirements.lock
	@echo "3 of 3: lrt itself ..."
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@test -z "$$PYTHONDONTWRITEBYTECODE" || { echo "And bytecode, for PYTHONDONTWRITEBYTECODE is set here ..."; \
	  $(BIN)/python -m compileall -qq -j 0 .venv/lib || true; }
	@touch $(READY)

# What torch alone decides (CUDA, triton) stays out of the lock: it differs by build.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra book --no-header --no-annotate \
	  pyproject.toml --output-file requirements.lock
	grep -vE '^(cuda-|nvidia-|triton)' requirements.lock >requirements.tmp && mv requirements.tmp requirements.lock
	{ sed '/- pip:/q' environment.yml; sed 's/^/      - /' requirements.lock; } >environment.tmp && mv environment.tmp environment.yml

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .coverage
	find lrt tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} + 2>/dev/null || true
