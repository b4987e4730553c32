from __future__ import annotations

import copy

import pytest
import torch
from ignite.engine import Events

from medmap_components.engines import PrepareStudyBatch, ResumableState, TeacherStage, save_atomically


@pytest.fixture
def stage(network, trainer, batch, tmp_path):
    """Makes a stage over one batch; ``masks`` collects what the teacher was shown."""
    initial = copy.deepcopy(network.state_dict())

    def make(masks=None, stop_in_epoch=None, **kwargs) -> TeacherStage:
        network.load_state_dict(initial)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        state = ResumableState(
            str(tmp_path / "teacher_last.pt"),
            network,
            optimizer,
            schedule,
            resume=kwargs.get("resume", False),
            keep=[str(tmp_path / name) for name in ("teacher.pt", "last.pt", "model.pt")],
            epochs_knob="teacher_epochs",
        )
        engine = trainer(
            [batch(0, [[0, 1, 0, 0]], [[1, 1, 0, 1]])],
            optimizer=optimizer,
            max_epochs=3,
            prepare_batch=PrepareStudyBatch(hide=False),
            train_handlers=[state],
        )
        if masks is not None:
            network.register_forward_pre_hook(
                lambda module, args, named: masks.append(named["mask"].tolist()), with_kwargs=True
            )
        if stop_in_epoch is not None:

            def stop(engine):
                raise KeyboardInterrupt

            engine.add_event_handler(Events.ITERATION_STARTED(once=stop_in_epoch), stop)
        return TeacherStage(engine, network, str(tmp_path / "teacher.pt"), str(tmp_path / "last.pt"), **kwargs)

    return make


def weights(path):
    return torch.load(path, weights_only=True)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_teacher_is_trained_on_everything_that_exists_and_its_last_weights_are_kept(stage, network, tmp_path):
    masks = []
    made = stage(masks)
    before = copy.deepcopy(network.state_dict())
    made.run()
    assert masks == [[[True, True, False, True]]] * 3
    assert_same(weights(tmp_path / "teacher.pt"), network.state_dict())
    assert not torch.equal(before["encoder.weight"], network.encoder.weight)


def test_given_checkpoint_skips_the_training(stage, network, tmp_path):
    given = {name: torch.full_like(value, 2.0) for name, value in network.state_dict().items()}
    save_atomically(given, tmp_path / "given.pt")
    masks = []
    stage(masks, checkpoint=str(tmp_path / "given.pt")).run()
    assert masks == []
    assert_same(network.state_dict(), given)
    assert not (tmp_path / "teacher.pt").exists()


def test_checkpoint_of_another_network_names_the_setting(stage, tmp_path):
    save_atomically({"encoder.weight": torch.zeros(5, 1, 1, 1, 1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt.*--teacher_checkpoint"):
        stage(checkpoint=str(tmp_path / "other.pt")).run()
    with pytest.raises(FileNotFoundError, match=r"gone\.pt.*--teacher_checkpoint"):
        stage(checkpoint=str(tmp_path / "gone.pt")).run()


def test_finished_teacher_is_not_trained_again_when_the_run_is_resumed(stage, network, tmp_path):
    stage().run()
    finished = weights(tmp_path / "teacher.pt")
    masks = []
    stage(masks, resume=True).run()
    assert masks == []
    assert_same(network.state_dict(), finished)


def test_new_run_trains_again_and_keeps_what_an_earlier_one_left(stage, tmp_path):
    stage().run()
    first = weights(tmp_path / "teacher.pt")
    for name in ("last.pt", "model.pt"):
        (tmp_path / name).write_bytes(b"of the student")
    masks = []
    stage(masks).run()
    assert len(masks) == 3
    assert_same(weights(tmp_path / "teacher.1.pt"), first)
    # the student of the earlier teacher must not be taken for that of the new one
    assert sorted(path.name for path in tmp_path.glob("*.1.pt")) == [
        "last.1.pt",
        "model.1.pt",
        "teacher.1.pt",
        "teacher_last.1.pt",
    ]


def test_stopped_teacher_goes_on_where_it_stopped(stage, network, tmp_path):
    stage().run()
    whole = weights(tmp_path / "teacher.pt")
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        stage(stop_in_epoch=3).run()
    assert not (tmp_path / "teacher.pt").exists()
    assert torch.load(tmp_path / "teacher_last.pt", weights_only=True)["epoch"] == 2
    masks = []
    stage(masks, resume=True).run()
    assert len(masks) == 1
    assert_same(weights(tmp_path / "teacher.pt"), whole)


def test_nothing_to_resume_is_refused(stage):
    with pytest.raises(FileNotFoundError, match=r"teacher_last\.pt"):
        stage(resume=True).run()


@pytest.mark.parametrize(
    ("resume", "checkpoint", "began", "expected"),
    [
        (False, None, True, False),
        (True, None, False, False),  # stopped before the student's first epoch was done
        (True, None, True, True),
        (True, "given.pt", False, True),  # so that there being nothing to resume is refused
    ],
)
def test_student_is_resumed_once_it_has_a_state(stage, tmp_path, resume, checkpoint, began, expected):
    if began:
        (tmp_path / "last.pt").write_bytes(b"")
    assert stage(resume=resume, checkpoint=checkpoint).resume_student is expected
