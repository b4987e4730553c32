from __future__ import annotations

import torch
from monai.data import MetaTensor

from medmap_components.engines import PrepareStudyBatch


def test_a_batch_is_split_into_image_label_and_both_masks(batch):
    data = batch(0, [[1, 0, 1, 1], [0, 0, 0, 1]], [[1, 1, 1, 1], [0, 0, 1, 1]])
    image, label, arguments, named = PrepareStudyBatch()(data, device="cpu")
    assert not isinstance(image, MetaTensor)
    assert torch.equal(image, data["image"].as_tensor())
    assert torch.equal(label, data["label"])
    assert arguments == ()
    assert named["mask"].tolist() == [[True, False, True, True], [False, False, False, True]]
    assert named["exists"].tolist() == [[True] * 4, [False, False, True, True]]


def test_a_plain_tensor_has_all_modalities():
    data = {"image": torch.zeros(2, 4, 2, 2, 2), "label": torch.zeros(2, 1, 2, 2, 2)}
    *_, named = PrepareStudyBatch()(data)
    assert named["mask"].all()
    assert named["exists"].all()


def test_keys_and_type_can_be_chosen():
    data = {"x": torch.zeros(1, 4, 2, 2, 2), "y": torch.ones(1, 1, 2, 2, 2)}
    image, label, *_ = PrepareStudyBatch("x", "y")(data, dtype=torch.float64)
    assert image.dtype == torch.float64
    assert label.sum() == 8


def test_a_teacher_is_shown_what_is_hidden_but_not_what_does_not_exist(batch):
    data = batch(0, [[1, 0, 0, 1]], [[1, 1, 0, 1]])
    *_, named = PrepareStudyBatch(hide=False)(data)
    assert named["mask"].tolist() == named["exists"].tolist() == [[True, True, False, True]]
