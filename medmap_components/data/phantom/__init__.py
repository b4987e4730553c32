"""A synthetic multi-modal brain-tumour phantom: the built-in data set. See ``docs/phantom.md``."""

from medmap_components.data.phantom.fresh import FreshPhantoms
from medmap_components.data.phantom.generate import PhantomCase, make_phantom_case, write_phantom_case
from medmap_components.data.phantom.parameters import LESION_KINDS
from medmap_components.data.phantom.studies import PhantomStudies

__all__ = [
    "LESION_KINDS",
    "FreshPhantoms",
    "PhantomCase",
    "PhantomStudies",
    "make_phantom_case",
    "write_phantom_case",
]
