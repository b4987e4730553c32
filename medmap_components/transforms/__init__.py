"""MONAI transforms for incomplete studies: reading, modality masks, label conventions."""

from medmap_components.transforms.check_study import WARNINGS_KEY, CheckStudy, CheckStudyd, warnings_of
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
from medmap_components.transforms.published import (
    PREPROCESSING_SCHEMES,
    PublishedCrop,
    PublishedCropd,
    PublishedNormalize,
    PublishedNormalized,
    is_published_preprocessing,
)
from medmap_components.transforms.segmentation import (
    CleanSegmentationd,
    DescribeSegmentationd,
    RegionProbabilitiesd,
    lesions,
    voxel_volume_ml,
)
from medmap_components.transforms.spacing import SpacingIfNeeded, SpacingIfNeededd, undo_spacing, was_resampled

__all__ = [
    "EXISTS_KEY",
    "LABEL_SCHEMES",
    "MASK_KEY",
    "PREPROCESSING_SCHEMES",
    "WARNINGS_KEY",
    "BratsLabels",
    "BratsLabelsd",
    "CheckStudy",
    "CheckStudyd",
    "CleanSegmentationd",
    "DescribeSegmentationd",
    "LabelsToBrats",
    "LabelsToBratsd",
    "LoadBratsLabel",
    "LoadBratsLabeld",
    "LoadStudy",
    "LoadStudyd",
    "PublishedCrop",
    "PublishedCropd",
    "PublishedNormalize",
    "PublishedNormalized",
    "RandModalityDropout",
    "RandModalityDropoutd",
    "RegionProbabilitiesd",
    "SelectModalities",
    "SelectModalitiesd",
    "SpacingIfNeeded",
    "SpacingIfNeededd",
    "is_published_preprocessing",
    "lesions",
    "masks_of",
    "nonzero",
    "undo_spacing",
    "voxel_volume_ml",
    "warnings_of",
    "was_resampled",
    "with_mask",
]
