from __future__ import annotations

import logging

import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, Lambdad
from torch import nn

from medmap_components.engines import StudyDataset, StudyError, StudyEvaluator
from medmap_components.engines.studies import root_message
from medmap_components.transforms import with_mask


def load(value: str) -> torch.Tensor:
    """Stands for reading a study: a number makes an image, anything else is damaged."""
    if not value.isdigit():
        raise ValueError(f"{value} is damaged")
    return torch.full((1, 2), float(value))


def items(**images: str) -> list[dict[str, str]]:
    return [{"image": image, "study": study} for study, image in images.items()]


def evaluator(data, saved: list, network: nn.Module | None = None, fail_on_save: str = "", **kwargs) -> StudyEvaluator:
    def save(prediction):
        if str(float(prediction.flatten()[0])) == fail_on_save:
            raise OSError("no space left")
        saved.append(float(prediction.flatten()[0]))
        return prediction

    dataset = StudyDataset(data, Compose([Lambdad("image", load)]))
    return StudyEvaluator(
        device="cpu",
        val_data_loader=DataLoader(dataset, **{"batch_size": 1, "num_workers": 0, **kwargs}),
        network=network or nn.Identity(),
        postprocessing=Lambdad("pred", save),
    )


def test_all_good_studies_end_quietly(caplog):
    saved: list[float] = []
    engine = evaluator(items(a="1", b="2"), saved)
    with caplog.at_level(logging.INFO):
        engine.run()
    assert saved == [1.0, 2.0]
    assert engine.failures == {}
    assert "All 2 studies" in caplog.text


def test_the_log_says_what_each_study_was_segmented_from(caplog):
    def study(mask):
        return {"image": with_mask(MetaTensor(torch.ones(4, 2, 2, 2)), torch.tensor(mask)), "study": str(sum(mask))}

    data = [study([True, False, False, True]), study([True] * 4)]
    engine = StudyEvaluator(
        device="cpu",
        val_data_loader=DataLoader(StudyDataset(data), batch_size=1, num_workers=0),
        network=nn.Identity(),
    )
    with caplog.at_level(logging.INFO):
        engine.run()
    assert "2 was segmented from FLAIR+T2" in caplog.text
    assert "4 was segmented from all" in caplog.text


@pytest.mark.parametrize("order", [("bad", "a", "b"), ("a", "bad", "b"), ("a", "b", "bad")])
def test_a_study_that_cannot_be_read_stops_no_other(order, caplog):
    content = {"a": "1", "b": "2", "bad": "this file"}
    saved: list[float] = []
    with pytest.raises(StudyError, match=r"1 of 3 studies[\s\S]*  bad: this file is damaged") as caught:
        evaluator(items(**{name: content[name] for name in order}), saved).run()
    assert saved == [1.0, 2.0]
    assert caught.value.failures == {"bad": "this file is damaged"}
    assert "bad was left out: this file is damaged" in caplog.text


def test_a_study_that_cannot_be_saved_stops_no_other():
    saved: list[float] = []
    engine = evaluator(items(a="1", b="2", c="3"), saved, fail_on_save="2.0")
    with pytest.raises(StudyError) as caught:
        engine.run()
    assert saved == [1.0, 3.0]
    assert caught.value.failures == {"b": "no space left"}
    assert engine.succeeded == ["a", "c"]


def test_a_study_that_the_network_cannot_take_stops_no_other():
    class Picky(nn.Module):
        def forward(self, x):
            if float(x.flatten()[0]) == 1:
                raise RuntimeError("out of memory")
            return x

    saved: list[float] = []
    with pytest.raises(StudyError) as caught:
        evaluator(items(a="1", b="2"), saved, Picky()).run()
    assert (saved, caught.value.failures) == ([2.0], {"a": "out of memory"})


def test_a_second_run_begins_anew():
    saved: list[float] = []
    engine = evaluator(items(a="1", bad="x"), saved)
    for _ in range(2):
        with pytest.raises(StudyError, match="1 of 2 studies"):
            engine.run()
    assert saved == [1.0, 1.0]


def test_worker_processes_report_as_well():
    saved: list[float] = []
    with pytest.raises(StudyError, match="1 of 3 studies") as caught:
        evaluator(items(a="1", bad="x", b="2"), saved, num_workers=1).run()
    assert caught.value.failures == {"bad": "x is damaged"}
    assert saved == [1.0, 2.0]


def test_more_than_one_study_a_batch_is_refused():
    with pytest.raises(ValueError, match="one study a batch, got 2"):
        evaluator(items(a="1", b="2"), [], batch_size=2).run()


def test_no_study_at_all_is_refused():
    with pytest.raises(ValueError, match="holds no study"):
        StudyDataset([], None)


def test_the_message_is_what_the_transform_said():
    transform = Compose([Compose([Lambdad("image", load)])])
    with pytest.raises(RuntimeError) as caught:
        transform({"image": "x"})
    assert root_message(caught.value) == "x is damaged"
    assert root_message(KeyError()) == "KeyError"
