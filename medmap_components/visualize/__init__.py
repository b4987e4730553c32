"""Figures."""

from medmap_components.visualize.segmentation import CLASS_COLOURS, StudyPicture, draw_studies
from medmap_components.visualize.summary import draw_summary

__all__ = ["CLASS_COLOURS", "StudyPicture", "draw_studies", "draw_summary"]
