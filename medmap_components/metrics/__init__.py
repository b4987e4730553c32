"""Metrics over the tumour regions, and tables of them."""

from __future__ import annotations

from medmap_components.metrics.hausdorff import SURFACES, hausdorff95
from medmap_components.metrics.regions import (
    RegionsFromClasses,
    RegionsFromClassesd,
    region_dice,
    regions_from_classes,
)
from medmap_components.metrics.scores import METRICS, SCORED_REGIONS, Conventions, column, score_study
from medmap_components.metrics.subset_tables import (
    CaseScore,
    case_table,
    describe_summary,
    read_cases,
    summarise,
    summary_table,
)

__all__ = [
    "METRICS",
    "SCORED_REGIONS",
    "SURFACES",
    "CaseScore",
    "Conventions",
    "RegionsFromClasses",
    "RegionsFromClassesd",
    "case_table",
    "column",
    "describe_summary",
    "hausdorff95",
    "read_cases",
    "region_dice",
    "regions_from_classes",
    "score_study",
    "summarise",
    "summary_table",
]
