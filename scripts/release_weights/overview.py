"""The page that shows the weights of all bundles side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from release_weights.description import CONTRASTS_WERE_FITTED, REGIONS, Scores, Training, paragraph

COLUMNS = ("all", "average")


class Released(NamedTuple):
    """Weights that were trained, and what is known of them.

    Attributes:
        training: how they came about.
        size: of ``model.pt``, bytes.
        phantom: scores on phantoms that neither trained them nor chose among them.
        real: scores on real cases; None where they were not measured.
    """

    training: Training
    size: int
    phantom: Scores
    real: Scores | None


def overview(released: Sequence[Released], real_cases: str = "", subsets: Sequence[str] = ()) -> str:
    """The page: what was trained, for how long, and mean Dice on phantoms and on real cases.

    Args:
        released: the weights, in the order of their lines.
        real_cases: which the real cases are, and where they come from.
        subsets: that they were scored with.

    Raises:
        ValueError: when weights were scored on different numbers of cases.
    """
    first = released[0].training
    cases = same_number(one.phantom for one in released)
    scored = f"Mean Dice over {cases} phantoms that nothing was chosen by; average: of all 15 subsets:"
    text = f"""# Weights for demonstration

**Not for patients.** Each was trained on {first.phantoms} synthetic phantoms of {first.voxel_mm:g} mm by

    python scripts/train_release_weights.py docs/study/{first.study}.json --weights_dir WEIGHTS --page docs/weights.md

which also made this page. Releases carry them. The repository, for which they are too large, has those of another
training of `unet_pmix` alone, with [scores of their own](../bundles/unet_pmix/docs/weights.md). How a bundle was
trained, and its Dice on single subsets, is in the `docs/weights.md` of its zip.

{_table([_facts(one) for one in released], ("bundle", "parameters", "MiB", "epochs", "CPU minutes"))}
{paragraph(scored)}

{_score_table([(one.training.bundle, one.phantom) for one in released])}"""
    real = [(one.training.bundle, one.real) for one in released if one.real]
    if real:
        number = same_number(scores for _, scores in real)
        scored = (
            f"Mean Dice over {number} real cases (`--real_dir`), on their own grids ({real_cases}). "
            f"{CONTRASTS_WERE_FITTED} Average: of {', '.join(subsets)}:"
        )
        text += f"\n{paragraph(scored)}\n\n{_score_table(real)}"
    return text


def same_number(scores: Iterable[Scores]) -> int:
    """How many cases all of these scores are the means of.

    Raises:
        ValueError: where they differ, which would make lines of a table that cannot be compared.
    """
    counts = {one.cases for one in scores}
    if len(counts) != 1:
        raise ValueError(
            f"weights were scored on different numbers of cases, {sorted(counts)}; score all of them again."
        )
    return counts.pop()


def _facts(one: Released) -> tuple[str, ...]:
    training = one.training
    million, mebibytes = training.parameters / 1e6, one.size / 2**20
    return (
        f"`{training.bundle}`",
        f"{million:.1f} M",
        f"{mebibytes:.1f}",
        str(training.epochs),
        f"{training.cpu_minutes:.0f}",
    )


def _score_table(lines: Iterable[tuple[str, Scores]]) -> str:
    head = ("bundle", *(f"{region}, {name}" for name in COLUMNS for region in REGIONS))
    rows = [
        (f"`{bundle}`", *(f"{scores.values[region][name]:.2f}" for name in COLUMNS for region in REGIONS))
        for bundle, scores in lines
    ]
    return _table(rows, head)


def _table(rows: Iterable[Sequence[str]], head: Sequence[str]) -> str:
    lines = [f"| {' | '.join(line)} |\n" for line in (head, *rows)]
    return "".join((lines[0], "|---" * len(head), "|\n", *lines[1:]))
