"""Let a CUDA build of torchvision be imported beside CPU torch.

Installed by hook_torchvision.sh.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class DeclareOperators(MetaPathFinder):
    """Declares torchvision's operators just before torchvision is first imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find nothing: the declaration is all this finder is for."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            self.declare()
        return None

    def declare(self) -> None:
        """Declare the operators without kernels: enough to import, and nothing calls them."""
        import torch  # here, because a .pth file runs at every start of the interpreter

        # Kept on the object, and the object in this module: a collected library is undeclared.
        self.library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            self.library.define(operator + SIGNATURE)


finder = DeclareOperators()
sys.meta_path.insert(0, finder)
