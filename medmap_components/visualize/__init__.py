"""Figures."""

from medmap_components.visualize.segmentation import CLASS_COLOURS, StudyPicture, draw_studies

__all__ = ["CLASS_COLOURS", "StudyPicture", "draw_studies"]
