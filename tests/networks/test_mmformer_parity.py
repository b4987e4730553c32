"""MMFormer computes what the published mmFormer computes, given the same weights.

The numbers in ``data/mmformer_parity.npz`` came out of the published network, https://github.com/YaoZhang93/mmFormer at
commit b18663adbfd0323656083e0470420c8c715c1782 (Apache-2.0), in float32 on a CPU with torch 2.13.0. Its parameters,
position tables and biases included, and the 128^3 image were filled by the formulas of ``formula.py``; none of its code
is here. With ``net.eval()`` it was run

- with ``is_training = False`` on the image under each of the 15 masks, and on a batch of two copies of the image, of
  which the first shows FLAIR and T1ce and the second T2;
- with ``is_training = True`` on the image under the mask T1ce+T2, which gives nine maps: fused; FLAIR, T1ce, T1 and T2
  alone; deep supervision from 1/2, 1/4, 1/8 and 1/16 of the size, after softmax and then upsampling.

Kept are the probabilities of classes 1 to 3 (class 0 is the rest) at the voxels of ``formula.sampled``, in steps of
1 / 65535: 10 000 voxels for T1ce, T1+T2, all four and the batch, 500 for each of the 15 masks and the nine maps. At
full precision and over all voxels the largest difference was 5.6e-5 for the 15 masks and the batch, and 4.3e-5 for the
nine maps; the most probable class differed at 186 of 54 525 952 voxels, where the two best lie within 3e-5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medmap_components.allocator import tune_allocator
from medmap_components.modalities import MODALITIES, SUBSETS
from medmap_components.networks import MMFormer, MMFormerLatents
from medmap_components.networks.blocks import upsample
from medmap_components.networks.mmformer_weights import load_published_state, published_key_map
from tests.networks import formula

STEPS = 65535
# the bar is 1e-4; half a step of rounding comes on top
TOLERANCE = 1e-4 + 0.5 / STEPS
MIXED = torch.tensor([(True, True, False, False), (False, False, False, True)])
MASKS = {subset.name: torch.tensor([subset.mask]) for subset in SUBSETS}


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / "mmformer_parity.npz") as file:
        return {key: file[key] for key in file.files if key != "commit"}


@pytest.fixture(scope="module")
def network() -> MMFormer:
    tune_allocator()  # halves the time that the large volumes take
    network = MMFormer(token_layout="published", dropout_rate=0.0).eval()
    load_published_state(network, formula.published_state(network, published_key_map(), raised=1))
    return network


@pytest.fixture(scope="module")
def latents(network) -> MMFormerLatents:
    with torch.no_grad():
        return network.encode(formula.image(128))


def expand(latents: MMFormerLatents, batch: int) -> MMFormerLatents:
    levels = tuple(level.expand(batch, *level.shape[1:]) for level in latents.levels)
    return MMFormerLatents(levels, latents.tokens.expand(batch, *latents.tokens.shape[1:]))


def four_classes(stored: np.ndarray) -> Tensor:
    tumour = torch.from_numpy(stored.astype(np.float64) / STEPS)
    return torch.cat((1 - tumour.sum(1, keepdim=True), tumour), dim=1)


def difference(probabilities: Tensor, stored: np.ndarray) -> float:
    """The largest difference in a stored class; fails where the most probable class differs and is no tie."""
    expected = four_classes(stored)
    found = formula.sampled(probabilities.double(), expected.shape[-1])
    best = expected.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 4 * TOLERANCE
    assert torch.equal(found.argmax(1)[clear], expected.argmax(1)[clear])
    return (found - expected)[:, 1:].abs().max().item()


@pytest.mark.parametrize("subset", ["T1ce", "T1+T2", "all"])
@torch.no_grad()
def test_published_probabilities(network, latents, published, subset):
    assert difference(network.decode(latents, MASKS[subset]).softmax(1), published[f"wide {subset}"]) < TOLERANCE


@torch.no_grad()
def test_published_probabilities_of_a_batch_with_different_masks(network, latents, published):
    found = network.decode(expand(latents, 2), MIXED).softmax(1)
    assert difference(found, published["wide mixed"]) < TOLERANCE


def test_published_probabilities_discriminate(published):
    for subset in ("T1ce", "T1+T2", "all"):
        expected = four_classes(published[f"wide {subset}"])[0]
        assert expected.shape[1] >= 10_000
        assert torch.bincount(expected.argmax(0), minlength=4).min() > 0
        assert expected.std(dim=1).min() >= 0.05


@torch.no_grad()
def test_swapped_encoders_are_noticed(network, published):
    state = formula.published_state(network, published_key_map(), raised=1)
    swapped = {key.replace("flair_encoder", "x").replace("t1_encoder", "flair_encoder"): state[key] for key in state}
    swapped = {key.replace("x.", "t1_encoder.") if key.startswith("x.") else key: swapped[key] for key in swapped}
    other = MMFormer(token_layout="published").eval()
    load_published_state(other, swapped)
    found = other(formula.image(128)).softmax(1)
    expected = four_classes(published["wide all"])
    assert (formula.sampled(found, expected.shape[-1]) - expected).abs().max() > 0.5


@pytest.mark.slow
@torch.no_grad()
def test_published_probabilities_under_all_15_masks(network, latents, published):
    for name, mask in MASKS.items():
        assert difference(network.decode(latents, mask).softmax(1), published[f"narrow {name}"]) < TOLERANCE, name


@pytest.mark.slow
@torch.no_grad()
def test_published_training_maps(network, published):
    output = network.train()(formula.image(128), MASKS["T1ce+T2"], MASKS["all"])
    network.eval()
    maps = [output.logits.softmax(1), *(output.modality[name].softmax(1) for name in MODALITIES)]
    maps += [upsample(output.deep[f"deep_{scale}"].softmax(1), scale) for scale in (2, 4, 8, 16)]
    for number, found in enumerate(maps):
        assert difference(found, published[f"narrow map {number}"]) < TOLERANCE, number
