#!/usr/bin/env bash
# Makes a CUDA build of torchvision importable beside CPU torch (see torchvision_hook.py).
# Usage: hook_torchvision.sh PYTHON
set -euo pipefail
site=$("$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp "$(dirname "$0")/torchvision_hook.py" "$site/mmfmt_torchvision_hook.py"
echo "import mmfmt_torchvision_hook" >"$site/mmfmt_torchvision_hook.pth"
