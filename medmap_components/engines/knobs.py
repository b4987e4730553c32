"""Refuses mistyped settings on the command line: MONAI takes any unknown top-level key without a word."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import ensure_tuple

__all__ = ["PASSED_BY_MONAI", "check_knobs", "refuse_unknown_keys"]

PASSED_BY_MONAI: frozenset[str] = frozenset(
    {
        # set by MONAI itself
        "_meta_",
        # settings of MONAI's experiment tracking (--tracking mlflow)
        "experiment_name",
        "is_not_rank0",
        "output_dir",
        "run_name",
        "save_execute_config",
        "tracking_uri",
        # set by MONAI Label when it trains a bundle; what it sets below train# and validate# is there already
        "bundle_root",
        "device",
        "displayable_configs",
        "train",
        "validate",
    }
)
"""Top-level keys that MONAI and MONAI Label set on their own, whether or not a bundle has them."""


WORDS = {"true": True, "false": False}


def check_knobs(bundle_root: str, absent: Sequence[str] = (), because: str = "") -> None:
    """Refuses top-level keys that neither a config file nor MONAI knows; called when a bundle's run is initialised.

    It also takes the words ``true`` and ``false`` for what they say: MONAI's command line hands over ``--amp false`` as
    text, and any text counts as true.

    Known are the keys of the config files given to MONAI's ``run``, those of ``PASSED_BY_MONAI``, and keys that begin
    with an underscore. Where a ``ConfigWorkflow`` is made directly it does not tell its files; then the keys of all
    config files of the bundle are known. It does nothing outside a ``ConfigWorkflow``.

    Args:
        bundle_root: the bundle's folder.
        absent: settings that other bundles of the project have and this one has not.
        because: why; said when one of them is given.

    Raises:
        ValueError: for an unknown key, with the nearest known ones, or for one in ``absent``, with the reason.
    """
    workflow = next(_callers("self", ConfigWorkflow), None)
    if workflow is None:
        return
    files = _config_files_given(workflow) or list(Path(bundle_root, "configs").glob("*.json"))
    known = {key.split("#")[0].split("::")[0] for file in files for key in ConfigParser.load_config_file(file)}
    refuse_unknown_keys(workflow.parser.config, known, dict.fromkeys(absent, because))
    _read_words(workflow.parser)


def refuse_unknown_keys(keys: Iterable[str], known: Iterable[str], reasons: Mapping[str, str] | None = None) -> None:
    """Refuses keys that are neither known, nor passed by MONAI, nor begin with an underscore.

    Args:
        keys: top-level keys of a config with its overrides.
        known: those that the config files define.
        reasons: why some keys are not known, said in place of a suggestion. Default: none.

    Raises:
        ValueError: for an unknown key, with the reason or the nearest known ones.
    """
    allowed = {key.removeprefix("+") for key in known} | PASSED_BY_MONAI
    unknown = sorted(key for key in keys if key not in allowed and not key.startswith("_"))
    if not unknown:
        return
    hints = []
    for key in unknown:
        near = difflib.get_close_matches(key, sorted(allowed), n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
        hint = (reasons or {}).get(key, hint)
        hints.append(f"{key!r}" + (f" ({hint})" if hint else ""))
    raise ValueError(
        f"unknown setting {', '.join(hints)}. The settings of this bundle stand at the top of its config file; "
        "a key of your own, to refer to with '@', must begin with an underscore."
    )


def _read_words(parser: ConfigParser) -> None:
    """Replaces the words for true and false among the top-level settings, before anything refers to them."""
    config = cast("dict[str, Any]", parser.config)
    items = cast("dict[str, Any]", parser.ref_resolver.items)
    for key, value in config.items():
        word = value.strip().lower() if isinstance(value, str) else ""
        if word in WORDS:
            config[key] = WORDS[word]
            if key in items:
                items[key].update_config(WORDS[word])


def _config_files_given(workflow: ConfigWorkflow) -> list[Path]:
    """The files that MONAI's ``run`` was given for this workflow; the first one's folder tells that they are its."""
    for given in _callers("config_file", (str, list, tuple)):
        files = [Path(file) for file in ensure_tuple(given)]
        if files and files[0].parent == Path(workflow.config_root_path) and all(file.is_file() for file in files):
            return files
    return []


def _callers(variable: str, kind: type | tuple[type, ...]) -> Iterator[Any]:
    """Values of a local variable in the calling frames, innermost first, where they are of a kind."""
    frame = inspect.currentframe()
    while frame is not None:
        value = frame.f_locals.get(variable)
        if isinstance(value, kind):
            yield value
        frame = frame.f_back
