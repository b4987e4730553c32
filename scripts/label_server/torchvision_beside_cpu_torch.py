"""Lets torchvision be imported beside a CPU build of torch; installed by monai_label.sh where it is needed.

The torchvision on PyPI is built for CUDA. Beside a CPU build of torch its compiled half does not load, and then
``import torchvision`` fails, because that half would have declared the operators nms and qnms. Declared here, they let
the import pass; nothing that MONAI Label does with our bundles calls them.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

OPERATORS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

kept: list[object] = []
"""A library's operators vanish with it."""


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Declares the operators just before torchvision is imported, and finds nothing itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Called by the import system for every module that is not loaded yet."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            for name in OPERATORS:
                library.define(name + SIGNATURE)
            kept.append(library)
        return None


sys.meta_path.insert(0, DeclareOperators())
