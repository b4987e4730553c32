"""MedMAP bundles: brain-tumour segmentation with missing MRI modalities, for MONAI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medmap_components.inference import Segmentation, Segmenter, segment

__version__ = "0.1.0"

__all__ = ["Segmentation", "Segmenter", "__version__", "segment"]


def __getattr__(name: str) -> Any:
    """Loads what segments on first use: the parts of the package need nothing of it."""
    if name in ("Segmentation", "Segmenter", "segment"):
        from medmap_components import inference

        return getattr(inference, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
