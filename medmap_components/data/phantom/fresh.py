"""The built-in data set without an end: other phantom cases in every epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from medmap_components.data.phantom.studies import PhantomStudies

__all__ = ["FreshPhantoms"]

FIRST_FRESH_SEED = 2**64
"""Where the seeds of fresh cases begin, far from those of all others."""


class FreshPhantoms(PhantomStudies):
    """Phantom studies that are never the same twice, for training on as many as there are steps.

    Item ``i`` is another case in every epoch: :meth:`set_random_state`, which MONAI's loaders and
    :class:`~medmap_components.engines.EpochSeed` call when an epoch begins, chooses them. On disk it takes the place of
    the epoch before, so that the folder does not grow. A data set that caches items would defeat this.

    Args:
        *args: those of :class:`PhantomStudies`.
        **kwargs: those of :class:`PhantomStudies`; ``num_training`` is the number of cases in an epoch.

    Raises:
        ValueError: as :class:`PhantomStudies`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.folder = self.folder.with_name(f"{self.section}_fresh")
        self._epoch_seed = 0

    def set_random_state(self, seed: int | None = None, state: Any = None) -> FreshPhantoms:
        """Chooses the cases of an epoch; named as MONAI's random transforms name it.

        Args:
            seed: of the epoch. None stands for 0.
            state: not used.

        Returns:
            This object.
        """
        self._epoch_seed = seed or 0
        return self

    def case_seed(self, index: int) -> int:
        """The seed that a study is made from in this epoch."""
        drawn = np.random.SeedSequence([self._first_seed, self._epoch_seed, index]).generate_state(2, np.uint32)
        return FIRST_FRESH_SEED + (int(drawn[0]) << 32) + int(drawn[1])
