#!/usr/bin/env bash
# Install everything the tests need into .venv, then lint, check types, test.
#   tests/run.sh            unit and property tests
#   tests/run.sh --engine   and the suite that serves checkpoints in vLLM (own venv, .venv-vllm)
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || python3 -m venv .venv
# torch first: a plain requirement would fetch the CUDA build
.venv/bin/pip install -q torch==2.13.0
.venv/bin/pip install -q -e '.[test]'
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/pytest -q

if [ "${1:-}" = --engine ]; then
  bash tests/engine/setup_vllm.sh .venv-vllm
  MMFMT_VLLM_PYTHON="$PWD/.venv-vllm/bin/python" .venv/bin/pytest -q -m engine tests/engine
fi
