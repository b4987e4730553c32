from __future__ import annotations

import copy

import pytest
import torch
from monai.data import MetaTensor

from medmap_components.engines import DistillationTrainer
from medmap_components.losses import DistillationLoss, MissingModalityLoss
from medmap_components.networks import AdaptiveMixAnchor, KDNet


def make_network(seed: int) -> KDNet:
    torch.manual_seed(seed)
    return KDNet(stem_channels=2, filters=(4, 6, 8), deep_maps=1, anchor=AdaptiveMixAnchor())


def make_data(mask: list[int], exists: list[int] | None = None, hidden: float | None = None) -> dict:
    """One case of 8 x 8 x 8 voxels; ``hidden`` replaces the voxels of what exists and is not visible."""
    random = torch.Generator().manual_seed(0)
    masks = torch.tensor([mask]).bool(), torch.tensor([exists or [1] * 4]).bool()
    image = torch.randn(1, 4, 8, 8, 8, generator=random)
    if hidden is not None:
        image[:, (masks[1] & ~masks[0])[0]] = hidden * torch.randn(8, 8, 8, generator=random)
    image = MetaTensor(image, meta={"modality_mask": masks[0], "modality_exists": masks[1]})
    return {"image": image, "label": torch.randint(0, 4, (1, 1, 8, 8, 8), generator=random)}


def make_trainer(batches, student, teacher, learning_rate=0.1, loss=None, **kwargs) -> DistillationTrainer:
    settings = {
        "device": "cpu",
        "max_epochs": 1,
        "train_data_loader": batches,
        "epoch_length": len(batches),
        "network": student,
        "teacher": teacher,
        "distillation_loss": loss or DistillationLoss(logit_weight=2.0, bottleneck_weight=0.5),
        "optimizer": torch.optim.SGD(student.parameters(), lr=learning_rate),
        "loss_function": MissingModalityLoss(alignment_weight=0.5),
    }
    return DistillationTrainer(**{**settings, **kwargs})


def terms_of(batches, student, teacher, **kwargs) -> dict[str, float]:
    engine = make_trainer(batches, student, teacher, **kwargs)
    engine.run()
    return {name: value for name, value in engine.state.metrics.items() if isinstance(value, float)}


def test_the_loss_is_that_of_the_student_alone_and_the_weighted_distillation():
    student, teacher = make_network(0), make_network(1)
    data = make_data([0, 1, 0, 0])
    image, mask, exists = data["image"].as_tensor(), *(torch.tensor([m]).bool() for m in ([0, 1, 0, 0], [1] * 4))
    with torch.no_grad():
        output = copy.deepcopy(student).train()(image, mask, exists)
        taught = copy.deepcopy(teacher).eval().teach(image, exists)
    alone = MissingModalityLoss(alignment_weight=0.5)(output, data["label"])
    distilled = DistillationLoss()(output.logits, output.features, taught.logits, taught.features)

    terms = terms_of([data], student, teacher)
    expected = {name: value.item() for name, value in {**alone, **distilled}.items()}
    expected["distillation"] = 2 * expected["distillation_logits"] + 0.5 * expected["distillation_bottleneck"]
    expected["loss"] = alone["loss"].item() + expected["distillation"]
    assert {"fused_ce", "deep_2", "alignment", "distillation_logits"} <= expected.keys()
    assert terms == pytest.approx(expected, rel=1e-4)
    assert min(terms["distillation_logits"], terms["distillation_bottleneck"]) > 0


def test_gradients_reach_the_student_and_nothing_of_the_teacher():
    student, teacher = make_network(0), make_network(1)
    before = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student.state_dict())
    make_trainer([make_data([0, 1, 0, 0]), make_data([1, 0, 0, 1])], student, teacher).run()
    assert all(torch.equal(before[0][name], value) for name, value in teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not teacher.training
    assert all(not torch.equal(before[1][name], value) for name, value in student.state_dict().items())


def test_distillation_alone_moves_the_student_towards_the_teacher():
    student, teacher = make_network(0), make_network(1)
    nothing_else = MissingModalityLoss(alignment_weight=0, fused_weight=0, deep_weight=0)
    distilled = []
    for _ in range(6):
        loss = DistillationLoss(logit_weight=1.0, bottleneck_weight=0.1)
        engine = make_trainer([make_data([1, 1, 1, 1])], student, teacher, 0.01, loss, loss_function=nothing_else)
        engine.run()
        assert engine.state.metrics["distillation"] == pytest.approx(engine.state.metrics["loss"])
        distilled.append(engine.state.metrics["distillation_logits"])
    assert distilled == sorted(distilled, reverse=True)
    assert distilled[-1] < 0.9 * distilled[0]


def test_the_teacher_sees_hidden_modalities_and_the_student_does_not():
    student, teacher = make_network(0), make_network(1)
    runs = []
    for hidden in (None, 3.0):
        seen = []
        hook = teacher.downs[-1].register_forward_hook(lambda module, args, features, seen=seen: seen.append(features))
        engine = make_trainer([make_data([0, 1, 0, 0], [1, 1, 0, 1], hidden)], student, teacher, learning_rate=0.0)
        engine.run()
        hook.remove()
        runs.append((engine.state.output["pred"], seen[0]))
    assert torch.equal(runs[0][0], runs[1][0])
    assert (runs[0][1] - runs[1][1]).abs().max() > 1e-2


def test_what_does_not_exist_reaches_neither():
    student, teacher = make_network(0), make_network(1)
    plain, broken = make_data([0, 1, 0, 0], [1, 1, 0, 1]), make_data([0, 1, 0, 0], [1, 1, 0, 1])
    broken["image"][:, 2] = float("nan")
    terms = [terms_of([data], student, teacher, learning_rate=0.0) for data in (plain, broken)]
    assert terms[0] == terms[1]


def test_the_teacher_computes_only_what_the_student_learns_from():
    student, teacher = make_network(0), make_network(1)

    def refuse(*_):
        raise AssertionError

    for head in teacher.deep_outputs.values():
        head.register_forward_hook(refuse)
    make_trainer([make_data([0, 1, 0, 0])], student, teacher).run()


def test_a_teacher_is_frozen_when_the_student_starts_and_not_before():
    """Both trainers of a config may be made before the first of them runs."""
    student, teacher = make_network(0), make_network(1)
    engine = make_trainer([make_data([0, 1, 0, 0])], student, teacher)
    assert all(p.requires_grad for p in teacher.parameters())
    engine.run()
    assert not any(p.requires_grad for p in teacher.parameters())


def test_teacher_of_another_width_is_refused():
    torch.manual_seed(0)
    narrow = KDNet(stem_channels=2, filters=(4, 6, 6))
    with pytest.raises(ValueError, match=r"\(1, 8, 2, 2, 2\).*\(1, 6, 2, 2, 2\)"):
        make_trainer([make_data([0, 1, 0, 0])], make_network(0), narrow).run()
