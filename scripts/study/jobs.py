"""One run of a study: its folder, its two commands, and what is left of them when they end."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from study.data import Data
from study.definition import REPOSITORY, Run, Study
from study.files import read_json, write_json
from study.provenance import code_version, device_name, file_hash, package_versions
from study.taken_over import TakenOver

PHASES = {"training": "training", "evaluation": "evaluating"}
"""What a run consists of, and the name of each in the bundles' configs."""

STATES = ("last.pt", "teacher_last.pt", "teacher.pt")
"""Files of a training that can be gone on with."""

PARENT_DEATH_SIGNAL = 1
EXCEPTION = re.compile(r"^[\w.]+(Error|Exception|Exit)\b.*")


class Job:
    """Does a run in its folder, one phase after the other, and leaves behind what tells how far it came.

    The folder holds ``specification.json``; ``training/`` and ``evaluation/`` as the bundle writes them; a log per
    phase; ``attempts.jsonl`` with a line per start; ``training.json`` and ``evaluation.json``, written when the phase
    has succeeded; ``failure.json`` where one has failed.

    Args:
        run: what to do.
        study: that it belongs to.
        output_dir: the study's.
        taken: what it left where it was done before, if it is not to be done here. Default None.
    """

    def __init__(self, run: Run, study: Study, output_dir: Path, taken: TakenOver | None = None) -> None:
        self.run = run
        self.taken = taken
        self.bundle_dir = study.bundles_dir / run.bundle
        self.source = study.data[run.data]
        self.folder = output_dir / "runs" / run.name
        self.process: subprocess.Popen[bytes] | None = None
        self.phase = ""
        self.began = 0.0

    @property
    def is_done(self) -> bool:
        """Whether training and evaluation have succeeded."""
        return self.taken is not None or (self.folder / "evaluation.json").is_file()

    @property
    def seconds(self) -> float:
        """How long it took, as far as it is done."""
        if self.taken:
            return sum(float(self.taken.record[f"{phase}_seconds"]) for phase in PHASES)
        record = self.record()
        return sum(float(record[phase].get("seconds", 0)) for phase in PHASES)

    @property
    def failure(self) -> dict[str, Any]:
        """What is known of its failure; empty where it has not failed."""
        return read_json(self.folder / "failure.json")

    def check(self) -> None:
        """Makes sure that what the folder holds was made by the definition as it is now.

        Raises:
            ValueError: when it was made with other settings.
        """
        known, now = read_json(self.folder / "specification.json"), self._specification()
        different = sorted(key for key in known.keys() | now.keys() if known.get(key) != now.get(key))
        if known and different:
            raise ValueError(
                f"run {self.run.name} was begun with other {different} than the definition has now; give the setting "
                f"another name, the study another --output_dir, or delete {self.folder}."
            )

    def forget_failure(self) -> None:
        """Lets a failed run begin again where it stopped."""
        (self.folder / "failure.json").unlink(missing_ok=True)

    def start(self, data: Data, environment: Mapping[str, str], held: int) -> None:
        """Starts the next phase.

        Args:
            data: of the run.
            environment: variables beside those of this process.
            held: a file descriptor that the process inherits, so that the study's lock is held as long as it lives.
        """
        write_json(self.folder / "specification.json", self._specification())
        self.phase = next(phase for phase in PHASES if not (self.folder / f"{phase}.json").is_file())
        command = self.command(self.phase, data)
        self._note_attempt(command, environment)
        search_path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        with (self.folder / f"{self.phase}.log").open("ab") as log:
            log.write(_attempt_line(self._attempts()).encode())
            log.flush()
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONWARNINGS": "ignore", **environment, "PYTHONPATH": search_path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(held,),
                preexec_fn=_die_with_parent,
            )
        self.began = time.time()

    def command(self, phase: str, data: Data) -> list[str]:
        """The command of a phase, as a user would type it."""
        configs = [self.bundle_dir / "configs" / "train.json"]
        settings = {
            **data.settings(phase),
            "output_dir": self.folder / "training",
            "seed": self.run.seed,
            **self.run.overrides,
        }
        if "start_from" in settings:
            settings["start_from"] = self._expanded(str(settings["start_from"]))
        if phase == "training":
            resumable = any((self.folder / "training" / name).is_file() for name in STATES)
            settings |= {"resume": True} if resumable else {}
        else:
            configs.append(self.bundle_dir / "configs" / "evaluate.json")
            settings |= {
                "checkpoint": self.folder / "training" / "model.pt",
                "evaluation_dir": self.folder / "evaluation",
                "section": self.run.section,
                **self.run.evaluation,
            }
        files = str(configs[0]) if len(configs) == 1 else repr([str(config) for config in configs])
        options = [f"--{key}={_as_text(value)}" for key, value in settings.items()]
        return [sys.executable, "-m", "monai.bundle", "run", PHASES[phase], f"--config_file={files}", *options]

    def _expanded(self, path: str) -> Path:
        """A path with environment variables, and with the run's ``{bundle}`` and ``{seed}``."""
        return Path(os.path.expandvars(path.format(bundle=self.run.bundle, seed=self.run.seed))).resolve()

    def has_ended(self) -> bool:
        """Looks after the process; when it has ended, leaves the record of success or failure."""
        assert self.process is not None
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if pid == 0:
            return False
        self.process.returncode = os.waitstatus_to_exitcode(status)
        record = {
            "seconds": round(time.time() - self.began, 3),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
            "attempts": sum(attempt["phase"] == self.phase for attempt in self._attempts()),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        if self.process.returncode == 0:
            self._note_success(record)
        else:
            reason = self._reason(self.process.returncode)
            write_json(self.folder / "failure.json", {"phase": self.phase, "reason": reason, **record})
        self.process = None
        return True

    def stop(self) -> None:
        """Ends the process and all that it started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def record(self) -> dict[str, Any]:
        """All that is known of the run: phase to its record, the attempts and the failure."""
        found = {phase: read_json(self.folder / f"{phase}.json") for phase in PHASES}
        return {**found, "attempts": self._attempts(), "failure": self.failure}

    def _specification(self) -> dict[str, Any]:
        return {**self.run.specification, "source": dict(self.source)}

    def _note_attempt(self, command: list[str], environment: Mapping[str, str]) -> None:
        configs = [self.bundle_dir / "configs" / f"{name}.json" for name in ("train", "evaluate")]
        line = {
            "phase": self.phase,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": command[1:],
            "code": code_version(REPOSITORY),
            "configs_sha256": file_hash(*configs),
            "versions": package_versions(),
            "device": device_name(environment.get("CUDA_VISIBLE_DEVICES")),
            "environment": dict(environment),
        }
        with (self.folder / "attempts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _attempts(self) -> list[dict[str, Any]]:
        return list(_whole_lines(self.folder / "attempts.jsonl"))

    def _note_success(self, record: dict[str, Any]) -> None:
        if self.phase == "training":
            record["checkpoint_sha256"] = file_hash(self.folder / "training" / "model.pt")
        else:
            for name in STATES:
                (self.folder / "training" / name).unlink(missing_ok=True)
        write_json(self.folder / f"{self.phase}.json", record)

    def _reason(self, exit_code: int) -> str:
        """The first exception of the last attempt: those that follow wrap it."""
        text = (self.folder / f"{self.phase}.log").read_text(encoding="utf-8", errors="replace")
        lines = text.rpartition(_attempt_line(self._attempts()))[2].splitlines()
        found = next((line for line in lines if EXCEPTION.match(line)), lines[-1] if lines else "")
        ended = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
        return f"{found[:500]} ({ended})".strip()


def _as_text(value: Any) -> str:
    """A setting as the command line takes it: MONAI drops ``None``, but evaluates ``$None``."""
    if value is None:
        return "$None"
    return value if isinstance(value, str) else str(value) if isinstance(value, Path) else repr(value)


def _attempt_line(attempts: list[dict[str, Any]]) -> str:
    return f"\n=== attempt {len(attempts)} ===\n"


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of JSON lines; one that was being written when the program was killed is passed over."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                yield json.loads(line)


def _die_with_parent() -> None:
    """Asks Linux to kill this process when the one that started it is gone, however it went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
