"""Figures."""

from medmap_components.visualize.planes import REGION_COLOURS, PlanesPicture, draw_planes
from medmap_components.visualize.report_page import ReportPages, StudyEntry
from medmap_components.visualize.segmentation import CLASS_COLOURS, StudyPicture, draw_studies
from medmap_components.visualize.summary import draw_summary

__all__ = [
    "CLASS_COLOURS",
    "REGION_COLOURS",
    "PlanesPicture",
    "ReportPages",
    "StudyEntry",
    "StudyPicture",
    "draw_planes",
    "draw_studies",
    "draw_summary",
]
