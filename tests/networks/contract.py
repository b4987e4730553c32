"""What every network promises; each network's test class inherits this and says how to build a tiny one."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from medmap_components.losses import MissingModalityLoss
from medmap_components.modalities import MODALITIES, SUBSETS
from medmap_components.networks import AdaptiveMixAnchor, Anchor, FixedMixAnchor, NormalAnchor, TrainingOutput

T1CE_ONLY = (False, True, False, False)
MIXED = torch.tensor([(True, False, True, False), (False, True, False, False)])


class NetworkContract:
    """Subclasses give ``build`` and, where needed, another size."""

    size: tuple[int, int, int] = (32, 32, 32)
    num_classes = 4

    def build(self) -> nn.Module:
        raise NotImplementedError

    @pytest.fixture
    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()

    def image(self, batch: int = 1) -> Tensor:
        return torch.randn(batch, len(MODALITIES), *self.size, generator=torch.Generator().manual_seed(1))

    def train_outputs(self, network: nn.Module, *args: Tensor | None) -> TrainingOutput:
        torch.manual_seed(2)
        with torch.no_grad():
            return network.train()(*args)

    @torch.inference_mode()
    def test_one_encoding_serves_all_15_subsets(self, network):
        latents = network.encode(self.image())
        seen = []
        for subset in SUBSETS:
            mask = torch.tensor([subset.mask])
            logits = network(self.image(), mask)
            assert logits.shape == (1, self.num_classes, *self.size)
            torch.testing.assert_close(network.decode(latents, mask), logits, atol=5e-4, rtol=0, msg=subset.name)
            assert all((logits - other).abs().max() > 1e-2 for other in seen)
            seen.append(logits)

    def image_with_foreign_content(self, mask: Tensor) -> Tensor:
        """The usual image, with NaN in the absent channels of sample 0 and noise in those of sample 1."""
        image = self.image(2)
        image[0][~mask[0]] = float("nan")
        image[1][~mask[1]] = 100 * self.image(2)[0][~mask[1]]
        return image

    @torch.inference_mode()
    def test_absent_content_changes_no_logit_in_eval(self, network):
        assert torch.equal(network(self.image_with_foreign_content(MIXED), MIXED), network(self.image(2), MIXED))

    @pytest.mark.parametrize("exists", [None, torch.ones(2, 4, dtype=torch.bool)], ids=["absent", "hidden"])
    def test_absent_content_changes_no_fused_output_in_training(self, network, exists):
        images = (self.image(2), self.image_with_foreign_content(MIXED))
        before, after = (self.train_outputs(network, image, MIXED, exists) for image in images)
        assert torch.equal(before.logits, after.logits)
        assert all(torch.equal(before.deep[key], after.deep[key]) for key in before.deep)

    def test_absent_nan_leaves_gradients_finite(self, network):
        self.total(network.train()(self.image_with_foreign_content(MIXED), MIXED)).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())

    @torch.inference_mode()
    def test_a_mask_per_sample_equals_the_samples_alone(self, network):
        network = network.double()
        image = self.image(2).double()
        together = network(image, MIXED)
        alone = torch.cat([network(image[i : i + 1], MIXED[i : i + 1]) for i in range(2)])
        torch.testing.assert_close(together, alone, atol=1e-9, rtol=0)

    @torch.inference_mode()
    def test_no_mask_means_all_visible(self, network):
        image = self.image()
        assert torch.equal(network(image), network(image, torch.ones(1, 4, dtype=torch.bool)))

    def test_no_mask_in_training_means_all_exist(self, network):
        output = self.train_outputs(network, self.image())
        assert output.mask.all()
        assert output.exists.all()

    def test_training_output_has_its_shapes(self, network):
        output = self.train_outputs(network, self.image(2), MIXED, torch.ones(2, 4, dtype=torch.bool))
        shape = (2, self.num_classes, *self.size)
        assert output.logits.shape == shape
        assert set(output.modality) <= set(MODALITIES)
        assert all(logits.shape == shape for logits in output.modality.values())
        for key, logits in output.deep.items():
            scale = int(key.removeprefix("deep_"))
            assert logits.shape == (2, self.num_classes, *(side // scale for side in self.size))
        assert torch.equal(output.mask, MIXED)
        assert output.exists.all()

    @staticmethod
    def total(output: TrainingOutput) -> Tensor:
        """A scalar that every output contributes to."""
        maps = [output.logits, *output.deep.values(), *output.modality.values()]
        maps += [level.anchor - level.latents.mean(1) for level in output.aligned.values()]
        return sum((part * part.detach().cos()).mean() for part in maps)

    def test_every_parameter_gets_a_gradient(self, network):
        exists = torch.ones(2, 4, dtype=torch.bool)
        self.total(network.train()(self.image(2), ~MIXED, exists)).backward()
        without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert without == []

    def test_no_parameter_is_unused_when_modalities_are_hidden(self, network):
        """DistributedDataParallel waits for parameters that get no gradient, not even a zero one."""
        mask = torch.tensor([T1CE_ONLY])
        self.total(network.train()(self.image(), mask, torch.ones(1, 4, dtype=torch.bool))).backward()
        assert [name for name, p in network.named_parameters() if p.grad is None] == []

    def test_state_dict_round_trip(self, network):
        torch.manual_seed(3)
        other = self.build().eval()
        other.load_state_dict(network.state_dict(), strict=True)
        with torch.inference_mode():
            assert torch.equal(other(self.image()), network(self.image()))

    @torch.no_grad()
    def test_tracing_gives_the_same_output(self, network):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(network, self.image(), check_trace=False)
        other = self.image().flip(2)
        torch.testing.assert_close(traced(other), network(other), atol=1e-4, rtol=1e-4)

    @torch.inference_mode()
    def test_bfloat16_autocast_stays_near_float32(self, network):
        exact = network(self.image()).softmax(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(self.image()).float().softmax(1)
        assert (rounded - exact).abs().mean() < 0.05

    @pytest.mark.parametrize("training", [False, True])
    def test_wrong_channel_count_is_refused(self, network, training):
        with pytest.raises(ValueError, match=r"\(1, 3, "):
            network.train(training)(self.image()[:, :3])

    @pytest.mark.parametrize("training", [False, True])
    def test_indivisible_size_is_refused(self, network, training):
        short = self.image()[..., :-1]
        with pytest.raises(ValueError, match=str(self.size[2] - 1)):
            network.train(training)(short)

    @pytest.mark.parametrize("training", [False, True])
    def test_sample_without_any_modality_is_refused(self, network, training):
        mask = torch.tensor([T1CE_ONLY, (False,) * 4])
        with pytest.raises(ValueError, match=r"mask.*\[1\]"):
            network.train(training)(self.image(2), mask)

    def test_visible_but_not_existing_is_refused(self, network):
        mask, exists = torch.ones(1, 4, dtype=torch.bool), torch.tensor([T1CE_ONLY])
        with pytest.raises(ValueError, match="exists"):
            network.train()(self.image(), mask, exists)


class AnchorContract:
    """What a network that takes an anchor promises besides; subclasses give ``build`` and the levels that it can align.

    An anchor with weight 0 that fills zeros is no anchor, to the last bit.
    """

    levels: tuple[int, ...] = (1,)
    size: tuple[int, int, int] = (32, 32, 32)

    def build(self, anchor: Anchor | None) -> nn.Module:
        raise NotImplementedError

    def trained_for_a_step(self, network: nn.Module) -> list[Tensor]:
        """Everything that a step computes: the outputs, the gradients, and the outputs after the update."""
        random = torch.Generator().manual_seed(1)
        image = torch.randn(2, len(MODALITIES), *self.size, generator=random)
        label = torch.randint(0, 4, (2, 1, *self.size), generator=random)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        torch.manual_seed(2)
        output = network.train()(image, MIXED, torch.ones(2, 4, dtype=torch.bool))
        MissingModalityLoss(alignment_weight=0)(output, label)["loss"].backward()
        gradients = [p.grad for name, p in network.named_parameters() if not name.startswith("anchor.")]
        before = copy.deepcopy(network.state_dict())
        optimizer.step()
        assert any(not torch.equal(before[name], value) for name, value in network.state_dict().items())
        with torch.inference_mode():
            after = network.eval()(image, MIXED)
        return [output.logits, *output.deep.values(), *output.modality.values(), *gradients, after]

    @pytest.mark.parametrize("anchor", [NormalAnchor, FixedMixAnchor, AdaptiveMixAnchor])
    def test_weight_0_and_fill_zeros_equal_the_plain_network_bit_for_bit(self, anchor):
        torch.manual_seed(0)
        plain, aligned = self.build(None), self.build(anchor(levels=self.levels, fill="zeros"))
        aligned.load_state_dict(plain.state_dict(), strict=False)
        pairs = zip(self.trained_for_a_step(plain), self.trained_for_a_step(aligned), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

    def test_only_a_learned_anchor_adds_to_the_state(self):
        plain = self.build(None).state_dict().keys()
        assert not [key for key in plain if "anchor" in key]
        assert self.build(NormalAnchor(levels=self.levels)).state_dict().keys() == plain
        assert self.build(AdaptiveMixAnchor(levels=self.levels)).state_dict().keys() - plain == {"anchor.theta"}

    @torch.inference_mode()
    def test_anchor_stands_in_for_absent_modalities_and_changes_no_visible_one(self):
        torch.manual_seed(0)
        plain, aligned = self.build(None).eval(), self.build(AdaptiveMixAnchor(levels=self.levels)).eval()
        aligned.load_state_dict(plain.state_dict(), strict=False)
        image = torch.randn(1, len(MODALITIES), *self.size)
        torch.testing.assert_close(aligned(image), plain(image), atol=1e-5, rtol=0)
        mask = torch.tensor([T1CE_ONLY])
        assert (aligned(image, mask) - plain(image, mask)).abs().max() > 1e-2
