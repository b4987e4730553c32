from __future__ import annotations

import copy
import math

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from torch import nn

from medmap_components.engines import AnchorMonitor, CoTrainingTrainer, ResumableState
from medmap_components.losses import CoTrainingLoss
from medmap_components.networks import CoTrainedPair, EntropyDiscriminator, FeatureDiscriminator
from tests.engines.co_training_parts import make_adversaries, make_adversary, make_pair, make_trainer


@pytest.fixture
def pair() -> CoTrainedPair:
    torch.manual_seed(0)
    return make_pair()


@pytest.fixture
def batches(batch):
    return [batch(0, [[1, 0, 0, 1]], side=16), batch(1, [[0, 1, 0, 0]], side=16)]


def weights(part: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in part.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def logits(certain: bool, noise: int) -> torch.Tensor:
    """Segmentations that are sure of their classes, or are not."""
    random = torch.randn(2, 4, 16, 16, 16, generator=torch.Generator().manual_seed(noise))
    return random * (20 if certain else 0.1)


def test_every_term_stands_by_name_in_the_output_and_its_mean_in_the_metrics(pair, batches):
    engine = make_trainer(pair, batches)
    outputs = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: outputs.append(dict(e.state.output)))
    engine.run()
    names = {f"{path}_{term}" for path in ("full", "missing") for term in ("fused_ce", "fused_dice", "alignment")}
    names |= {"consistency", "information", "adversarial_entropy", "adversarial_feature", "alignment", "loss"}
    names |= {"discriminator_entropy", "discriminator_feature", "accuracy_entropy", "accuracy_feature"}
    for name in names:
        mean = sum(float(output[name].detach()) for output in outputs) / 2
        assert engine.state.metrics[name] == pytest.approx(mean), name
    assert engine.state.output["pred"].shape == (1, 4, 16, 16, 16)
    assert not engine.state.output["pred"].requires_grad


def test_one_step_is_that_of_the_loss_against_the_discriminators_as_they_were(pair, batches):
    engine = make_trainer(pair, batches[:1])
    expected, judges = copy.deepcopy(pair), copy.deepcopy(engine.adversaries)
    engine.run()
    meta = batches[0]["image"].meta
    output = expected(batches[0]["image"].as_tensor(), meta["modality_mask"], meta["modality_exists"])
    judged = {
        "entropy": judges["entropy"].discriminator(output.missing.logits),
        "feature": judges["feature"].discriminator(output.missing.features["bottleneck"]),
    }
    CoTrainingLoss(alignment_weight=0.5)(output, batches[0]["label"], judged, 0)["loss"].backward()
    torch.optim.SGD(expected.parameters(), lr=0.01).step()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(pair.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_both_paths_the_head_and_both_discriminators_learn(pair, batches):
    engine = make_trainer(pair, batches)
    learners = [pair.full, pair.missing, pair.head, *(each.discriminator for each in engine.adversaries.values())]
    before = [weights(part) for part in learners]
    engine.run()
    assert not any(same(old, weights(part)) for old, part in zip(before, learners, strict=True))


def test_fooling_reaches_the_missing_path_and_leaves_no_gradient_in_the_discriminators(pair, batches):
    engine = make_trainer(pair, batches)
    output = pair(batches[0]["image"].as_tensor(), torch.tensor([[True, False, False, True]]), torch.ones(1, 4).bool())
    views = {"entropy": output.missing.logits, "feature": output.missing.features["bottleneck"]}
    for name, adversary in engine.adversaries.items():
        before = weights(adversary.discriminator)
        pair.zero_grad()
        adversary.judge(views[name]).sum().backward(retain_graph=True)
        assert all(p.grad is None for p in adversary.discriminator.parameters())
        assert all(p.requires_grad for p in adversary.discriminator.parameters())
        assert same(before, weights(adversary.discriminator))
        moved = {part for part, p in pair.named_parameters() if p.grad is not None and p.grad.any()}
        assert {part.split(".")[0] for part in moved} == {"missing"}


def test_a_discriminators_step_leaves_no_gradient_in_the_paths(pair, batches):
    output = pair(batches[0]["image"].as_tensor())
    adversary = make_adversary(FeatureDiscriminator(pair.missing.bottleneck_channels, width=2))
    adversary.learn(output.full.features["bottleneck"], output.missing.features["bottleneck"])
    assert all(p.grad is None for p in pair.parameters())
    assert all(p.grad is not None for p in adversary.discriminator.parameters())


def test_an_entropy_discriminator_learns_to_tell_sure_from_unsure():
    torch.manual_seed(0)
    adversary = make_adversary(EntropyDiscriminator(width=4, layers=3))
    for step in range(20):
        loss, accuracy = adversary.learn(logits(True, step), logits(False, step))
    assert float(accuracy) == 1.0
    assert float(loss) < 0.1


def test_a_feature_discriminator_learns_to_tell_shifted_features():
    torch.manual_seed(0)
    adversary = make_adversary(FeatureDiscriminator(4, width=4))
    for step in range(30):
        features = torch.randn(2, 4, 4, 4, 4, generator=torch.Generator().manual_seed(step))
        loss, accuracy = adversary.learn(features + 2, features - 2)
    assert float(accuracy) == 1.0
    assert float(loss) < 0.1


def test_a_discriminator_cannot_tell_equals_apart():
    torch.manual_seed(0)
    adversary = make_adversary(EntropyDiscriminator(width=4, layers=3))
    for step in range(5):
        loss, accuracy = adversary.learn(logits(True, step), logits(True, step))
    assert float(accuracy) == 0.5
    assert float(loss) >= math.log(2) - 1e-6


def test_fooling_moves_what_is_judged_towards_the_full_path():
    torch.manual_seed(0)
    adversary = make_adversary(EntropyDiscriminator(width=4, layers=3))
    for step in range(20):
        adversary.learn(logits(True, step), logits(False, step))
    missing = logits(False, 99).requires_grad_()
    judged = adversary.judge(missing).mean()
    judged.backward()
    assert judged < 0
    assert adversary.judge(missing + 100 * missing.grad).mean() > judged


def test_the_discriminators_optimisers_last_for_the_whole_run(pair, batches):
    """Published bug 2: their Adam was made anew in every iteration, so that its moments never built up."""
    engine = make_trainer(pair, batches, max_epochs=2)
    fed = {name: [] for name in engine.adversaries}
    replayed = {name: copy.deepcopy(adversary.discriminator) for name, adversary in engine.adversaries.items()}

    def keep(trainer):
        for name, views in trainer._views.items():
            fed[name].append(views)

    with engine.add_event_handler(IterationEvents.LOSS_COMPLETED, keep):
        engine.run()
    for name, adversary in engine.adversaries.items():
        assert {int(state["step"]) for state in adversary.optimizer.state.values()} == {4}
        once = make_adversary(replayed[name])
        for views in fed[name]:
            once.learn(*views)
        for expected, found in zip(weights(once.discriminator), weights(adversary.discriminator), strict=True):
            torch.testing.assert_close(found, expected)


def test_the_ramp_counts_the_epochs_that_are_behind(pair, batches):
    engine = make_trainer(pair, batches[:1], max_epochs=3, loss_function=CoTrainingLoss(consistency_ramp=2))
    seen = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: seen.append(e.state.metrics["consistency_weight"]))
    engine.run()
    assert seen == pytest.approx([10 * math.exp(-5), 10 * math.exp(-1.25), 10])


def test_model_completed_is_the_last_event_of_an_iteration(pair, batches):
    engine = make_trainer(pair, batches[:1])
    fired = []
    for event in IterationEvents:
        if event in engine._allowed_events:
            engine.add_event_handler(event, lambda e, event=event: fired.append(event))
    engine.run()
    assert fired[-1] == IterationEvents.MODEL_COMPLETED
    assert len(fired) >= 4


def test_anchor_monitor_watches_the_missing_path(pair, batches):
    loss = CoTrainingLoss(alignment_weight=0.5)
    monitor = AnchorMonitor(pair.missing, loss)
    engine = make_trainer(pair, batches[:1], loss_function=loss, train_handlers=[monitor])
    engine.run()
    theta = pair.missing.anchor.theta.grad[0]
    for index, name in enumerate(("flair", "t1ce", "t1", "t2")):
        parts = [engine.state.output[f"anchor_gradient_{of}/level_1/{name}"] for of in ("alignment", "segmentation")]
        assert sum(parts) == pytest.approx(float(theta[index]), rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_learning_with_a_gradient_scaler_equals_learning_without():
    torch.manual_seed(0)
    plain = make_adversary(EntropyDiscriminator(width=4, layers=3))
    scaled = make_adversary(copy.deepcopy(plain.discriminator))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(3):
        plain.learn(logits(True, step), logits(False, step))
        scaled.learn(logits(True, step), logits(False, step), scaler)
        scaler.update()
    for expected, found in zip(weights(plain.discriminator), weights(scaled.discriminator), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_mixed_precision_on_the_cpu_ends_near_full_precision(pair, batches):
    engine = make_trainer(copy.deepcopy(pair), batches)
    judges = copy.deepcopy(engine.adversaries)
    engine.run()
    other = copy.deepcopy(pair)
    with_amp = make_trainer(other, batches, amp=True)
    for name, adversary in with_amp.adversaries.items():
        adversary.discriminator.load_state_dict(judges[name].discriminator.state_dict())
    with_amp.run()
    assert not same(weights(other), weights(engine.network))
    assert float(with_amp.state.output["loss"].detach()) == pytest.approx(
        float(engine.state.output["loss"].detach()), rel=0.02
    )


def test_a_resumed_run_ends_as_an_uninterrupted_one(batches, tmp_path):
    def run(folder, epochs, resume=False, seed=0):
        torch.manual_seed(seed)
        pair = make_pair()
        adversaries = make_adversaries(pair)
        optimizer = torch.optim.Adam(pair.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        state = ResumableState(str(folder / "last.pt"), pair, optimizer, schedule, resume=resume, also=adversaries)
        engine = make_trainer(pair, batches, max_epochs=2, optimizer=optimizer, train_handlers=[state], **adversaries)
        if epochs == 1:
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.terminate())
        engine.run()
        return [weights(part) for part in (pair, *(each.discriminator for each in engine.adversaries.values()))]

    whole = run(tmp_path / "whole", 2)
    half = run(tmp_path / "parts", 1)
    resumed = run(tmp_path / "parts", 2, resume=True, seed=1)
    for of_whole, of_half, of_resumed in zip(whole, half, resumed, strict=True):
        assert not same(of_half, of_whole)
        assert same(of_resumed, of_whole)


def test_accumulated_gradients_are_refused(pair, batches):
    with pytest.raises(ValueError, match=r"accumulation_steps.*got 2.*batch_size"):
        make_trainer(pair, batches, accumulation_steps=2)
    assert isinstance(make_trainer(pair, batches, accumulation_steps=1), CoTrainingTrainer)
