"""MONAI transforms for incomplete studies: reading, modality masks, label conventions."""

from medmap_components.transforms.foreground import nonzero
from medmap_components.transforms.labels import (
    LABEL_SCHEMES,
    BratsLabels,
    BratsLabelsd,
    LabelsToBrats,
    LabelsToBratsd,
    LoadBratsLabel,
    LoadBratsLabeld,
)
from medmap_components.transforms.load_study import LoadStudy, LoadStudyd
from medmap_components.transforms.masks import EXISTS_KEY, MASK_KEY, masks_of, with_mask
from medmap_components.transforms.modality_dropout import (
    RandModalityDropout,
    RandModalityDropoutd,
    SelectModalities,
    SelectModalitiesd,
)

__all__ = [
    "EXISTS_KEY",
    "LABEL_SCHEMES",
    "MASK_KEY",
    "BratsLabels",
    "BratsLabelsd",
    "LabelsToBrats",
    "LabelsToBratsd",
    "LoadBratsLabel",
    "LoadBratsLabeld",
    "LoadStudy",
    "LoadStudyd",
    "RandModalityDropout",
    "RandModalityDropoutd",
    "SelectModalities",
    "SelectModalitiesd",
    "masks_of",
    "nonzero",
    "with_mask",
]
