#!/usr/bin/env bash
# Install everything the tests need into .venv, then lint, check types, test.
#   tests/run.sh            unit and property tests
#   tests/run.sh --engine   fifteen times as many hostile repos, and the suites that serve
#                           checkpoints in vLLM and verify what llm-compressor and AutoRound
#                           export (venvs of their own)
set -euo pipefail
cd "$(dirname "$0")/.."

unset PYTHONDONTWRITEBYTECODE  # hundreds of processes would compile everything anew

suites() {
  bash tests/engine/setup_vllm.sh .venv-vllm
  bash tests/exports/setup_exports.sh .venv-exports
  MMFMT_VLLM_PYTHON="$PWD/.venv-vllm/bin/python" .venv/bin/pytest -q -m engine tests/engine
  MMFMT_EXPORT_PYTHON="$PWD/.venv-exports/bin/python" .venv/bin/pytest -q -m exports tests/exports
}

[ -x .venv/bin/python ] || python3 -m venv .venv
# torch first: a plain requirement would fetch the CUDA build
.venv/bin/pip install -q --no-compile torch==2.13.0
.venv/bin/pip install -q --no-compile -e '.[test]'
# transformers' PixtralProcessor wants it; without its CUDA packages
.venv/bin/pip install -q --no-compile --no-deps torchvision==0.28.0
bash tests/hook_torchvision.sh .venv/bin/python

if [ "${1:-}" = --engine ]; then
  export MMFMT_FUZZ_CASES=${MMFMT_FUZZ_CASES:-30000}
  # downloads, and one process at a time: beside the tests
  log=$(mktemp)
  suites >"$log" 2>&1 &
  trap 'kill $! 2>/dev/null || true; cat "$log"' EXIT
fi

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# the suites beside take longer than these tests if all have the same share of two cores
nice -n 5 .venv/bin/pytest -q -n auto --dist worksteal

if [ "${1:-}" = --engine ]; then
  wait $!
fi
