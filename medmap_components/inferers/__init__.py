"""MONAI inferers that carry the modality mask to the network."""

from medmap_components.inferers.masked import MaskedSimpleInferer, MaskedSlidingWindowInferer
from medmap_components.inferers.subsets import SubsetSlidingWindowInferer

__all__ = ["MaskedSimpleInferer", "MaskedSlidingWindowInferer", "SubsetSlidingWindowInferer"]
