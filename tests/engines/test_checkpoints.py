from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from medmap_components.engines import BestWeights, FinalWeights, ResumableState


class Run:
    """A run that moves the weights, with a scripted key metric per epoch."""

    def __init__(self, folder, metrics, resume=False, keep=(), network=None, also=None):
        torch.manual_seed(0)
        self.network = network or nn.Linear(2, 1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.PolynomialLR(self.optimizer, total_iters=len(metrics))
        self.evaluator = Engine(lambda *_: None)
        self.evaluator.state.best_metric = -1
        self.evaluator.state.best_metric_epoch = -1
        self.trainer = Engine(self.step)
        self.trainer.scaler = None
        self.metrics = metrics
        self.state = ResumableState(
            path=str(folder / "last.pt"),
            network=self.network,
            optimizer=self.optimizer,
            lr_scheduler=self.schedule,
            evaluator=self.evaluator,
            resume=resume,
            keep=[str(path) for path in keep],
            also=also,
        )
        self.state.attach(self.trainer)
        # attached later, and yet part of what is saved
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.validate)

    def step(self, engine, batch):
        self.optimizer.zero_grad()
        self.network(torch.tensor([[float(engine.state.epoch), batch]])).square().sum().backward()
        self.optimizer.step()

    def validate(self, engine):
        self.schedule.step()
        metric = self.metrics[engine.state.epoch - 1]
        if metric > self.evaluator.state.best_metric:
            self.evaluator.state.best_metric = metric
            self.evaluator.state.best_metric_epoch = engine.state.epoch

    def run(self, until=None):
        """Runs to the end, or is interrupted in the epoch after ``until``."""
        if until:
            self.trainer.add_event_handler(Events.ITERATION_STARTED, self.die_after, until)
        with contextlib.suppress(KeyboardInterrupt):
            self.trainer.run([1.0, 2.0], max_epochs=len(self.metrics))
        return self

    @staticmethod
    def die_after(engine, epoch):
        if engine.state.epoch > epoch:
            raise KeyboardInterrupt


METRICS = [0.1, 0.7, 0.3, 0.5, 0.6]


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = Run(tmp_path / "whole", METRICS).run()
    Run(tmp_path / "parts", METRICS).run(until=2)
    assert torch.load(tmp_path / "parts" / "last.pt", weights_only=True)["epoch"] == 2
    resumed = Run(tmp_path / "parts", METRICS, resume=True).run()
    assert resumed.trainer.state.epoch == 5
    assert resumed.trainer.state.iteration == whole.trainer.state.iteration == 10
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(resumed.network.state_dict()[name], value, rtol=0, atol=0)
    assert resumed.schedule.get_last_lr() == whole.schedule.get_last_lr()
    # 0.6 in the last epoch is less than 0.7 before the interruption
    assert (resumed.evaluator.state.best_metric, resumed.evaluator.state.best_metric_epoch) == (0.7, 2)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    Run(tmp_path, METRICS).run()
    before = (tmp_path / "last.pt").read_bytes()
    resumed = Run(tmp_path, METRICS, resume=True).run()
    assert resumed.trainer.state.epoch == 5
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_new_run_keeps_what_an_earlier_one_left(tmp_path):
    Run(tmp_path, METRICS[:1]).run()
    first = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(b"best of the first run")
    Run(tmp_path, METRICS[:2], keep=[tmp_path / "model.pt"]).run()
    assert (tmp_path / "last.1.pt").read_bytes() == first
    assert (tmp_path / "model.1.pt").read_bytes() == b"best of the first run"
    assert not (tmp_path / "model.pt").exists()
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 2


def test_a_resumed_run_renames_nothing(tmp_path):
    Run(tmp_path, METRICS).run(until=1)
    (tmp_path / "model.pt").write_bytes(b"best so far")
    Run(tmp_path, METRICS, resume=True, keep=[tmp_path / "model.pt"]).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "model.pt"]


def test_nothing_to_resume_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"last\.pt.*--output_dir"):
        Run(tmp_path, METRICS, resume=True).run()


def test_a_run_of_another_length_is_not_resumed(tmp_path):
    Run(tmp_path, METRICS).run(until=2)
    with pytest.raises(ValueError, match=r"a run of 5 epochs.*this run has 3\. Resume with --epochs 5"):
        Run(tmp_path, METRICS[:3], resume=True).run()


@pytest.mark.parametrize("content", [{"weight": torch.ones(1)}, [1, 2]])
def test_another_file_is_not_resumed_from(tmp_path, content):
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"not the last\.pt of a training run"):
        Run(tmp_path, METRICS, resume=True).run()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (nn.Linear(2, 1, bias=False), r"1 unknown \(first: bias\)"),
        (nn.Linear(2, 3), r"2 of another shape \(first: bias is \(1,\) there and \(3,\) here\)"),
    ],
)
def test_another_network_is_not_resumed(tmp_path, other, words):
    Run(tmp_path, METRICS).run(until=1)
    with pytest.raises(ValueError, match=rf"another network.*{words}"):
        Run(tmp_path, METRICS, resume=True, network=other).run()


def test_what_else_belongs_to_the_run_is_resumed_too(tmp_path):
    first = Run(tmp_path, [0.1, 0.2], also={"critic": nn.Linear(1, 1)}).run(until=1)
    critic = nn.Linear(1, 1)
    assert not torch.equal(critic.weight, first.state.also["critic"].weight)
    Run(tmp_path, [0.1, 0.2], also={"critic": critic}, resume=True).run()
    assert torch.equal(critic.weight, first.state.also["critic"].weight)


def test_a_run_of_another_kind_is_not_resumed(tmp_path):
    Run(tmp_path, [0.1, 0.2]).run(until=1)
    with pytest.raises(ValueError, match="critic"):
        Run(tmp_path, [0.1, 0.2], also={"critic": nn.Linear(1, 1)}, resume=True).run()


def test_the_state_needs_no_evaluator(tmp_path):
    run = Run(tmp_path, METRICS[:1])
    run.state.evaluator = None
    run.run()
    assert "best" not in torch.load(tmp_path / "last.pt", weights_only=True)


def test_the_best_weights_are_those_of_the_best_epoch(tmp_path):
    network = nn.Linear(1, 1)
    best = BestWeights(str(tmp_path / "model.pt"), network)
    for epoch, metric, is_best in ((1, 0.2, True), (2, 0.5, True), (3, 0.4, False)):
        nn.init.constant_(network.weight, float(epoch))
        state = SimpleNamespace(epoch=epoch, best_metric=metric, best_metric_epoch=epoch if is_best else 2)
        state.key_metric_name = "dice"
        best(SimpleNamespace(state=state))
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    assert float(weights["weight"]) == 2.0
    assert weights.keys() == {"weight", "bias"}


def test_a_wrapped_network_is_saved_without_its_wrapper(tmp_path):
    wrapped = nn.Module()
    wrapped.module = nn.Linear(1, 1)
    FinalWeights(str(tmp_path / "model.pt"), wrapped)(SimpleNamespace(state=SimpleNamespace(max_epochs=1)))
    assert torch.load(tmp_path / "model.pt", weights_only=True).keys() == {"weight", "bias"}


def test_final_weights_step_in_only_where_there_are_none(tmp_path, caplog):
    engine = Engine(lambda *_: None)
    network = nn.Linear(1, 1)
    FinalWeights(str(tmp_path / "model.pt"), network).attach(engine)
    engine.run([0], max_epochs=2)
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)["weight"], network.weight)
    assert "No validation took place" in caplog.text
    (tmp_path / "model.pt").write_bytes(b"chosen by validation")
    engine.run([0], max_epochs=4)
    assert (tmp_path / "model.pt").read_bytes() == b"chosen by validation"
