"""What every network with one encoder per modality promises beyond ``contract.NetworkContract``."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from medmap_components.networks import AdaptiveMixAnchor, Anchor, NormalAnchor
from tests.networks.contract import MIXED, T1CE_ONLY, AnchorContract

ALL = torch.ones(1, 4, dtype=torch.bool)


class MultiEncoderContract(AnchorContract):
    """Subclasses give the size of an image, the number of levels, the network without dropout, and its idle parts."""

    depth: int

    def build(self, anchor: Anchor | None = None) -> nn.Module:
        raise NotImplementedError

    def for_training_only(self, network: nn.Module) -> Iterable[nn.Module]:
        raise NotImplementedError

    def image(self, batch: int = 1) -> Tensor:
        return torch.randn(batch, 4, *self.size, generator=torch.Generator().manual_seed(0))

    def pair(self, anchor: Anchor) -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        plain, aligned = self.build(), self.build(anchor)
        aligned.load_state_dict(plain.state_dict(), strict=False)
        return plain, aligned

    def test_an_anchor_for_a_level_that_is_not_there_is_refused(self):
        with pytest.raises(ValueError, match=f"{self.depth + 1}.*levels 1 to {self.depth}"):
            self.build(NormalAnchor(levels=(1, self.depth + 1)))

    @torch.inference_mode()
    def test_anchor_stands_in_for_absent_modalities_at_its_level(self):
        mask = torch.tensor([T1CE_ONLY])
        for level in range(1, self.depth + 1):
            plain, aligned = self.pair(AdaptiveMixAnchor(levels=level))
            plain, aligned = plain.eval(), aligned.eval()
            complete = aligned(self.image(), ALL) - plain(self.image(), ALL)
            assert complete.abs().max() < 1e-5, level
            assert (aligned(self.image(), mask) - plain(self.image(), mask)).abs().max() > 1e-2, level

    def test_aligned_latents_are_those_of_the_encoder_before_masking(self):
        torch.manual_seed(0)
        network = self.build(AdaptiveMixAnchor(levels=(1, 3)))
        with torch.no_grad():
            output = network(self.image(2), MIXED, torch.ones(2, 4, dtype=torch.bool))
            latents = network.encode(self.image(2))
        assert list(output.aligned) == ["level_1", "level_3"]
        for name, level in (("level_1", 0), ("level_3", 2)):
            assert torch.equal(output.aligned[name].latents, latents.levels[level])
            torch.testing.assert_close(output.aligned[name].anchor, latents.levels[level].mean(1))

    @torch.inference_mode()
    def test_absent_modalities_are_not_encoded_in_eval(self):
        network = self.build().eval()
        widths = []
        network.encoder.levels["1"].register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[1]))
        network(self.image(2), torch.tensor([(False, True, False, True), (False, True, False, False)]))
        assert widths == [2]

    @torch.inference_mode()
    def test_parts_for_training_rest_in_eval(self):
        network = self.build().eval()

        def refuse(*_: object) -> None:
            raise AssertionError

        for part in self.for_training_only(network):
            part.register_forward_hook(refuse)
        network(self.image())

    def test_hidden_modalities_that_exist_still_get_their_own_maps(self):
        network = self.build()
        with torch.no_grad():
            seen = network(self.image(), ALL)
            hidden = network(self.image(), torch.tensor([T1CE_ONLY]), ALL)
        assert all(torch.equal(seen.modality[name], hidden.modality[name]) for name in seen.modality)
        assert not torch.equal(seen.logits, hidden.logits)
