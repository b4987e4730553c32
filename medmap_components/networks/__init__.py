"""Networks for missing modalities, and the anchors that align their latents."""

from __future__ import annotations

from medmap_components.networks.acn import ACN
from medmap_components.networks.anchors import AdaptiveMixAnchor, Anchor, FixedMixAnchor, NormalAnchor
from medmap_components.networks.co_training import CoTrainedPair, CoTrainingOutput
from medmap_components.networks.crop_size import crop_size_of_weights
from medmap_components.networks.discriminators import EntropyDiscriminator, FeatureDiscriminator
from medmap_components.networks.filters import base_channels_of_weights, filters_of_weights
from medmap_components.networks.kdnet import KDNet
from medmap_components.networks.mmformer import MMFormer, MMFormerLatents
from medmap_components.networks.outputs import AlignedLevel, TrainingOutput
from medmap_components.networks.rfnet import RFNet, RFNetLatents
from medmap_components.networks.unet import UNet

__all__ = [
    "ACN",
    "AdaptiveMixAnchor",
    "AlignedLevel",
    "Anchor",
    "CoTrainedPair",
    "CoTrainingOutput",
    "EntropyDiscriminator",
    "FeatureDiscriminator",
    "FixedMixAnchor",
    "KDNet",
    "MMFormer",
    "MMFormerLatents",
    "NormalAnchor",
    "RFNet",
    "RFNetLatents",
    "TrainingOutput",
    "UNet",
    "base_channels_of_weights",
    "crop_size_of_weights",
    "filters_of_weights",
]
