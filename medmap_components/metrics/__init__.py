"""Metrics over the tumour regions."""

from __future__ import annotations

from medmap_components.metrics.regions import (
    RegionsFromClasses,
    RegionsFromClassesd,
    region_dice,
    regions_from_classes,
)

__all__ = ["RegionsFromClasses", "RegionsFromClassesd", "region_dice", "regions_from_classes"]
