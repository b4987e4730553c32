from __future__ import annotations

import pytest
import torch

from medmap_components.networks import MMFormer, crop_size_of_weights


def save(tmp_path, size):
    network = MMFormer(img_size=size, base_channels=2, embed_dim=16, mlp_dim=32, num_heads=2)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.parametrize("size", [32, 48, 96])
def test_a_cube_is_read_off_the_weights(tmp_path, size):
    assert crop_size_of_weights(save(tmp_path, size), default=128) == [size] * 3


def test_a_crop_that_is_no_cube_has_to_be_given(tmp_path):
    with pytest.raises(ValueError, match=r"12 tokens.*--crop_size"):
        crop_size_of_weights(save(tmp_path, (32, 32, 48)))


def test_without_a_file_the_default_holds(tmp_path):
    assert crop_size_of_weights(tmp_path / "model.pt", default=64) == [64, 64, 64]
    assert crop_size_of_weights(tmp_path / "model.pt", default=(32, 48, 64)) == [32, 48, 64]
    assert crop_size_of_weights(tmp_path / "model.pt") == [128, 128, 128]


@pytest.mark.parametrize("content", [{"other": torch.zeros(1, 8, 2)}, [1], torch.zeros(3)])
def test_weights_that_tell_nothing_give_the_default(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    assert crop_size_of_weights(tmp_path / "model.pt", default=64) == [64, 64, 64]


def test_a_damaged_file_gives_the_default(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"damaged")
    assert crop_size_of_weights(tmp_path / "model.pt", default=64) == [64, 64, 64]
