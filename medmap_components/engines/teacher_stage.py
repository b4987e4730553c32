"""The first of the two stages of distillation: the teacher is trained, or one that is there is taken."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from medmap_components.engines.processes import is_first_process
from medmap_components.engines.trainer import MissingModalityTrainer
from medmap_components.engines.weights import load_strictly, save_atomically

__all__ = ["TeacherStage"]

logger = logging.getLogger(__name__)


class TeacherStage:
    """Sees to it that the teacher knows something before its student starts.

    A given checkpoint is loaded. Else, a run that is resumed after its teacher was finished loads what the teacher's
    stage left. Else the teacher is trained, and its weights are written when all its epochs are done; they are those
    of the last epoch.

    Args:
        trainer: trains the teacher; its own :class:`ResumableState` goes on with a teacher that was stopped.
        network: the teacher, without a wrapper for distributed training.
        path: where its weights are written, such as ``<output_dir>/teacher.pt``.
        student_state: the state of the student's training, such as ``<output_dir>/last.pt``.
        checkpoint: weights of a teacher that is finished. Default None: train one.
        resume: whether the run goes on with one that was stopped. Default False.

    Attributes:
        resume_student: whether the student goes on from ``student_state``. A run that is resumed in the teacher's
            stage, or before its student's first epoch was done, has none yet.
    """

    def __init__(
        self,
        trainer: MissingModalityTrainer,
        network: nn.Module,
        path: str,
        student_state: str,
        checkpoint: str | None = None,
        resume: bool = False,
    ) -> None:
        self.trainer = trainer
        self.network = network
        self.path = Path(path)
        self.checkpoint = checkpoint
        self.resume = resume
        self.resume_student = resume and (checkpoint is not None or Path(student_state).is_file())

    def run(self) -> None:
        """Trains or loads.

        Raises:
            FileNotFoundError: if there is no such checkpoint, or nothing to resume.
            ValueError: if the checkpoint belongs to another network.
        """
        finished = self.checkpoint
        if finished is None and self.resume and self.path.is_file():
            finished = str(self.path)
        if finished is not None:
            load_strictly(finished, self.network, knob="teacher_checkpoint")
            logger.info("The teacher is not trained again: its weights are those of %s", finished)
            return
        logger.info("First stage: the teacher is trained, for %d epochs", self.trainer.state.max_epochs)
        self.trainer.run()
        if is_first_process():
            save_atomically(self.network.state_dict(), self.path)
        logger.info("The teacher is finished, its weights are in %s; second stage: the student", self.path)
