"""What a network's parity with the published one means; each network's parity test inherits this."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medmap_components.allocator import tune_allocator
from medmap_components.losses import upsampled_softmax
from medmap_components.modalities import MODALITIES, SUBSETS
from tests.networks import formula

STEPS = 65535
# the bar is 1e-4; half a step of rounding comes on top
TOLERANCE = 1e-4 + 0.5 / STEPS
MIXED = torch.tensor([(True, True, False, False), (False, False, False, True)])
MASKS = {subset.name: torch.tensor([subset.mask]) for subset in SUBSETS}


class PublishedParity:
    """Compares with numbers that the published network gave, filled by ``formula.py``.

    The file holds the probabilities of classes 1 to 3 (class 0 is the rest) at the voxels of ``formula.sampled``, in
    steps of 1 / 65535: at 10 000 voxels for the masks T1ce, T1+T2, all four, and a batch of two copies of the image, of
    which the first shows FLAIR and T1ce and the second T2 (``"wide ..."``); at 500 voxels for each of the 15 masks and,
    under the mask T1ce+T2, for the nine maps of training: fused; FLAIR, T1ce, T1 and T2 alone; deep supervision, finest
    first, after softmax and then upsampling (``"narrow ..."``).
    """

    file: str
    size: int
    scales: tuple[int, ...]

    @classmethod
    def build(cls) -> nn.Module:
        raise NotImplementedError

    @classmethod
    def state(cls, network: nn.Module) -> dict[str, Tensor]:
        """The published network's weights by formula."""
        raise NotImplementedError

    @classmethod
    def load(cls, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def published(cls) -> dict[str, np.ndarray]:
        with np.load(Path(__file__).parent / "data" / cls.file) as file:
            return {key: file[key] for key in file.files if key != "commit"}

    @pytest.fixture(scope="class")
    @classmethod
    def network(cls) -> nn.Module:
        tune_allocator()  # halves the time that the large volumes take
        network = cls.build().eval()
        cls.load(network, cls.state(network))
        return network

    @pytest.fixture(scope="class")
    @classmethod
    def latents(cls, network):
        with torch.no_grad():
            return network.encode(formula.image(cls.size))

    @pytest.mark.parametrize("subset", ["T1ce", "T1+T2", "all"])
    @torch.no_grad()
    def test_published_probabilities(self, network, latents, published, subset):
        assert difference(network.decode(latents, MASKS[subset]).softmax(1), published[f"wide {subset}"]) < TOLERANCE

    @torch.no_grad()
    def test_published_probabilities_of_a_batch_with_different_masks(self, network, latents, published):
        found = network.decode(type(latents)(*map(twice, latents)), MIXED).softmax(1)
        assert difference(found, published["wide mixed"]) < TOLERANCE

    def test_published_probabilities_discriminate(self, published):
        for subset in ("T1ce", "T1+T2", "all"):
            expected = four_classes(published[f"wide {subset}"])[0]
            assert expected.shape[1] >= 10_000
            assert torch.bincount(expected.argmax(0), minlength=4).min() > 0
            assert expected.std(dim=1).min() >= 0.05

    @torch.no_grad()
    def test_swapped_encoders_are_noticed(self, network, published):
        state = self.state(network)
        other = {"flair": "t1", "t1": "flair"}
        swapped = {}
        for key, value in state.items():
            name, encoder, rest = key.partition("_encoder.")
            swapped[f"{other.get(name, name)}{encoder}{rest}" if encoder else key] = value
        network = self.build().eval()
        self.load(network, swapped)
        found = network(formula.image(self.size)).softmax(1)
        expected = four_classes(published["wide all"])
        assert (formula.sampled(found, expected.shape[-1]) - expected).abs().max() > 0.4

    @pytest.mark.slow
    @torch.no_grad()
    def test_published_probabilities_under_all_15_masks(self, network, latents, published):
        for name, mask in MASKS.items():
            assert difference(network.decode(latents, mask).softmax(1), published[f"narrow {name}"]) < TOLERANCE, name

    @pytest.mark.slow
    @torch.no_grad()
    def test_published_training_maps(self, network, published):
        output = network.train()(formula.image(self.size), MASKS["T1ce+T2"], MASKS["all"])
        network.eval()
        maps = [output.logits.softmax(1), *(output.modality[name].softmax(1) for name in MODALITIES)]
        maps += [upsampled_softmax(output.deep[f"deep_{scale}"], [self.size] * 3) for scale in self.scales]
        for number, found in enumerate(maps):
            assert difference(found, published[f"narrow map {number}"]) < TOLERANCE, number


def twice(part):
    """A tensor, or each in a tuple of tensors, as a batch of two copies."""
    return tuple(map(twice, part)) if isinstance(part, tuple) else part.expand(2, *part.shape[1:])


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
