"""The two stages of KD-Net's bundles: a teacher, then its student."""

from __future__ import annotations

import pytest
import torch

from medmap_components.engines import DistillationTrainer, MissingModalityTrainer
from medmap_components.modalities import MODALITIES
from medmap_components.transforms import masks_of

pytestmark = pytest.mark.bundles("distillation")


def weights(path):
    return torch.load(path, weights_only=True)


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.fixture(scope="module")
def settings(tiny_dataset):
    return {
        "dataset_dir": str(tiny_dataset),
        "teacher_epochs": 2,
        "epochs": 2,
        "learning_rate": 0.01,
        "val_interval": 9,
    }


@pytest.fixture(scope="module")
def whole(bundle, settings, tmp_path_factory):
    """The output folder of an uninterrupted run."""
    return bundle.train(tmp_path_factory.mktemp("whole"), **settings)


def test_the_weights_are_the_students_alone(whole):
    teacher, student, last = weights(whole / "teacher.pt"), weights(whole / "model.pt"), weights(whole / "last.pt")
    assert teacher.keys() == student.keys()
    assert_equal(last["network"], student)
    assert any((teacher[name] - student[name]).abs().max() > 1e-3 for name in student)


def test_only_the_student_is_distilled_and_both_are_aligned(whole, logged_curves):
    student, teacher = logged_curves(whole / "tensorboard"), logged_curves(whole / "tensorboard" / "teacher")
    distilled = {"distillation", "distillation_logits", "distillation_bottleneck"}
    assert distilled <= student.keys()
    assert not distilled & teacher.keys()
    for curves in (student, teacher):
        assert len(curves["loss"]) == len(curves["alignment_level_1"]) == 2


def test_a_given_teacher_skips_the_first_stage_and_makes_the_same_student(bundle, settings, whole, tmp_path):
    bundle.train(tmp_path, **settings, teacher_checkpoint=str(whole / "teacher.pt"))
    assert not list(tmp_path.glob("teacher*"))
    assert_equal(weights(tmp_path / "model.pt"), weights(whole / "model.pt"))


@pytest.mark.parametrize(("stage", "epoch"), [("teacher", 2), ("student", 1)])
def test_a_run_goes_on_in_the_stage_and_epoch_where_it_was_stopped(
    bundle, settings, whole, tmp_path, monkeypatch, stage, epoch
):
    epochs = []
    publish = MissingModalityTrainer._publish_terms

    def publish_or_stop(self, engine):
        place = "student" if isinstance(self, DistillationTrainer) else "teacher", engine.state.epoch
        if not epochs or epochs[-1] != place:
            epochs.append(place)
        if stop and place == (stage, epoch):
            raise KeyboardInterrupt
        publish(self, engine)

    monkeypatch.setattr(MissingModalityTrainer, "_publish_terms", publish_or_stop)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        bundle.train(tmp_path, **settings)
    order = [("teacher", 1), ("teacher", 2), ("student", 1), ("student", 2)]
    assert epochs == order[: order.index((stage, epoch)) + 1]

    stop = False
    epochs.clear()
    bundle.train(tmp_path, resume=True, **settings)
    assert epochs == order[order.index((stage, epoch)) :]
    for name in ("teacher.pt", "model.pt"):
        assert_equal(weights(tmp_path / name), weights(whole / name))
    assert not list(tmp_path.glob("*.1.pt"))


@pytest.fixture
def prepared(bundle, make_study, tmp_path):
    """The data sets of a run: training and validation, each of one complete study."""
    for name in ("BraTS2021_00000", "BraTS2021_00001"):
        make_study(tmp_path / "data" / name, name)

    def make(**overrides):
        data = {"dataset_dir": str(tmp_path / "data"), "validation_fraction": 0.5}
        settings = bundle.tiny_training(output_dir=str(tmp_path), **data, **overrides)
        workflow = bundle.workflow("train", "train", **settings)
        workflow.initialize()
        return [workflow.parser.get_parsed_content(f"{section}#dataset") for section in ("train", "validate")]

    return make


def test_student_modalities_hide_the_others_from_the_student_alone(prepared):
    for dataset in prepared(student_modalities=["t1ce", "t2"]):
        mask, exists = masks_of(dataset[0]["image"])
        assert [name for name, visible in zip(MODALITIES, mask, strict=True) if visible] == ["t1ce", "t2"]
        assert exists.all()


def test_without_student_modalities_the_student_sees_any_subset(prepared):
    training, validation = prepared()
    assert len({tuple(masks_of(training[0]["image"])[0].tolist()) for _ in range(20)}) > 3
    assert masks_of(validation[0]["image"])[0].all()


def test_the_teachers_epochs_follow_those_of_monai_label(bundle, make_study, tmp_path):
    make_study(tmp_path / "data", "case")
    item = {"image": str(tmp_path / "data" / "case_flair.nii.gz"), "label": str(tmp_path / "data" / "case_seg.nii.gz")}
    overrides = {"train#trainer#max_epochs": 3, "train#dataset#data": [item], "device": "cpu"}
    workflow = bundle.workflow("train", "train", **overrides)
    workflow.initialize()
    assert workflow.parser.get_parsed_content("teacher_epochs") == 3
