#!/usr/bin/env bash
# Makes (or completes) a virtual environment with llm-compressor and AutoRound, for CPU.
# Usage: setup_exports.sh VENV_DIRECTORY
set -euo pipefail

venv=${1:?usage: setup_exports.sh VENV_DIRECTORY}
here=$(cd "$(dirname "$0")" && pwd)
# The stamp holds this script's and the hook's checksum: a changed recipe is run again.
recipe=$(cat "$0" "$here/../torchvision_hook.py" | sha256sum)
stamp=$venv/mmfmt-exports.stamp
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$recipe" ]; then
    exit 0
fi

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-compile)
# PyPI itself has no CPU build of torch for Linux; a mirror may.
"${pip[@]}" "torch==2.13.0+cpu" ||
    "${pip[@]}" "torch==2.13.0+cpu" --extra-index-url https://download.pytorch.org/whl/cpu
# pins transformers 5.17 and compressed-tensors 0.19
"${pip[@]}" "llmcompressor==0.14.0.1"
# llm-compressor asks for an older one, which its own AutoRoundModifier needs and nothing here
"${pip[@]}" --no-deps "auto-round==0.16.1" "torchvision==0.28.0"
bash "$here/../hook_torchvision.sh" "$venv/bin/python"
"$venv/bin/python" -c 'import auto_round, llmcompressor, torchvision'
echo "$recipe" >"$stamp"
