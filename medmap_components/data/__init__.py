"""Data: lists of studies from folders, their naming and their splits."""

from medmap_components.data.binding import bind_studies, is_phantom
from medmap_components.data.layouts import LAYOUTS, Layout, expected_names, parse_file_name
from medmap_components.data.splits import (
    PUBLISHED_SPLITS,
    SECTIONS,
    fold_names,
    patient_of,
    published_split,
    read_split,
    split_names,
)
from medmap_components.data.studies import StudyItem, describe_studies, find_studies, study_list

__all__ = [
    "LAYOUTS",
    "PUBLISHED_SPLITS",
    "SECTIONS",
    "Layout",
    "StudyItem",
    "bind_studies",
    "describe_studies",
    "expected_names",
    "find_studies",
    "fold_names",
    "is_phantom",
    "parse_file_name",
    "patient_of",
    "published_split",
    "read_split",
    "split_names",
    "study_list",
]
