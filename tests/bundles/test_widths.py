"""Inference of the U-Net's bundles builds the network that the weights belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from medmap_components.networks import AdaptiveMixAnchor, UNet

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
PHANTOM, PUBLISHED = [16, 32, 64, 128], [32, 64, 128, 256, 320, 320]


def inference_config(folder: str, checkpoint: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / folder / "configs" / "inference.json"))
    parser["checkpoint"] = str(checkpoint)
    return parser


@pytest.mark.parametrize("folder", ["unet_pmix", "kdnet_pmix"])
def test_weights_of_the_phantom_load_into_the_default_inference(folder, tmp_path):
    training = ConfigParser()
    training.read_config(str(BUNDLES / folder / "configs" / "train.json"))
    training["phantom"] = True
    network = training.get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "model.pt")
    parser = inference_config(folder, tmp_path / "model.pt")
    assert parser.get_parsed_content("filters") == training.get_parsed_content("filters") == PHANTOM
    assert parser.get_parsed_content("crop_size") == training.get_parsed_content("crop_size")
    parser.get_parsed_content("network_def").load_state_dict(network.state_dict(), strict=True)


@pytest.mark.parametrize("folder", ["unet_pmix", "kdnet_pmix"])
def test_without_weights_the_published_network_and_its_crop_are_assumed(folder, tmp_path):
    training = ConfigParser()
    training.read_config(str(BUNDLES / folder / "configs" / "train.json"))
    training["phantom"] = False
    parser = inference_config(folder, tmp_path / "model.pt")
    for name, value in (("filters", PUBLISHED), ("crop_size", [128] * 3)):
        assert parser.get_parsed_content(name) == training.get_parsed_content(name) == value


def test_weights_of_published_width_get_the_published_window(tmp_path):
    torch.save(UNet(anchor=AdaptiveMixAnchor()).state_dict(), tmp_path / "model.pt")
    parser = inference_config("unet_pmix", tmp_path / "model.pt")
    assert parser.get_parsed_content("filters") == PUBLISHED
    assert parser.get_parsed_content("crop_size") == [128, 128, 128]
