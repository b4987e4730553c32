from __future__ import annotations

import pytest
import torch

from medmap_components.networks import (
    ACN,
    AdaptiveMixAnchor,
    KDNet,
    RFNet,
    UNet,
    base_channels_of_weights,
    filters_of_weights,
)


@pytest.mark.parametrize("network", [UNet, KDNet])
@pytest.mark.parametrize("filters", [(4, 6, 8), (2, 3, 4, 5, 5)])
def test_widths_are_read_off_the_weights(network, filters, tmp_path):
    trained = network(stem_channels=2, filters=filters, anchor=AdaptiveMixAnchor())
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    found = filters_of_weights(str(tmp_path / "model.pt"))
    assert found == list(filters)
    again = network(stem_channels=2, filters=found, anchor=AdaptiveMixAnchor())
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)


@pytest.mark.parametrize(
    "network", [RFNet(base_channels=8), ACN(stem_channels=2, base_channels=8, anchor=AdaptiveMixAnchor())]
)
def test_base_channels_are_read_off_the_weights(network, tmp_path):
    path = str(tmp_path / "model.pt")
    assert base_channels_of_weights(path) == 16
    torch.save(network.state_dict(), path)
    assert base_channels_of_weights(path) == 8


def test_without_a_file_the_default_holds(tmp_path):
    assert filters_of_weights(str(tmp_path / "model.pt")) == [32, 64, 128, 256, 320, 320]
    assert filters_of_weights(str(tmp_path / "model.pt"), default=(4, 8, 8)) == [4, 8, 8]


@pytest.mark.parametrize("content", [{"other": torch.zeros(1, 8, 2)}, [1], torch.zeros(3)])
def test_weights_that_tell_nothing_give_the_default(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    assert filters_of_weights(str(tmp_path / "model.pt"), default=(4, 8, 8)) == [4, 8, 8]
