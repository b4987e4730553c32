"""Phantoms without an end, on a coarse grid: 48^3 voxels of 4 mm."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ignite.engine import Engine
from monai.data import CacheDataset, DataLoader

from medmap_components.data import bind_studies
from medmap_components.data.phantom import FreshPhantoms, PhantomStudies, make_phantom_case
from medmap_components.data.phantom.parameters import BROAD_CONTRASTS, CONTRASTS, TISSUES
from medmap_components.engines import EpochSeed
from medmap_components.modalities import MODALITIES

SETTINGS = {"size": 48, "spacing": 4.0, "num_training": 2, "num_validation": 1}


def seed_on_disk(item):
    file = Path(item["label"])
    return str(json.loads((file.parent / f"{file.parent.name}_phantom.json").read_text())["settings"]["seed"])


def test_every_epoch_has_other_cases_and_the_same_epoch_the_same(tmp_path):
    studies = FreshPhantoms(tmp_path, **SETTINGS)
    seeds = []
    for epoch in (1, 2, 1):
        studies.set_random_state(epoch)
        seeds.append([studies.case_seed(index) for index in range(2)])
    assert seeds[0] == seeds[2]
    assert len({*seeds[0], *seeds[1]}) == 4


def test_epochs_and_runs_by_the_thousand_share_no_case(tmp_path):
    seen = set()
    for seed in (0, 1):
        studies = FreshPhantoms(tmp_path, seed=seed, **SETTINGS)
        for epoch in range(1000):
            seen.update(studies.set_random_state(epoch).case_seed(index) for index in range(2))
    assert len(seen) == 4000


def test_fresh_cases_are_none_of_the_fixed_ones(tmp_path):
    fixed = PhantomStudies(tmp_path, **SETTINGS)
    assert FreshPhantoms(tmp_path, **SETTINGS).case_seed(0) > fixed.case_seed(0) + 2**60


def test_the_epochs_seed_reaches_the_cases_through_a_data_set_and_loaders(tmp_path):
    dataset = CacheDataset(FreshPhantoms(tmp_path, **SETTINGS), transform=seed_on_disk, cache_rate=0.0, progress=False)
    handler, found = EpochSeed(5, dataset), []
    for workers in (0, 0, 1):
        engine = Engine(lambda engine, batch: None)
        engine.state.epoch = len(found) + 1
        handler(engine)
        found.append([seed for batch in DataLoader(dataset, batch_size=1, num_workers=workers) for seed in batch])
    assert len({value for seeds in found for value in seeds}) == 6


def test_the_folder_does_not_grow(tmp_path):
    studies = FreshPhantoms(tmp_path, **SETTINGS)
    for epoch in range(2):
        studies.set_random_state(epoch)
        item = studies[0]
        assert seed_on_disk(item) == str(studies.case_seed(0))
    assert [folder.name for folder in studies.folder.iterdir()] == ["Phantom_training_000"]


def test_fixed_cases_have_no_state_that_seeding_could_reach(tmp_path):
    """Otherwise MONAI's seeding would draw other augmentation than it did before there were fresh cases."""
    assert not hasattr(PhantomStudies(tmp_path, **SETTINGS), "set_random_state")


def test_only_training_is_fresh(tmp_path):
    settings = {"folder": tmp_path, "fresh": True, **SETTINGS}
    assert isinstance(bind_studies("training", phantom=settings), FreshPhantoms)
    assert type(bind_studies("validation", phantom=settings)) is PhantomStudies


def test_broad_contrasts_change_the_images_and_not_the_tumour():
    fitted, broad = (make_phantom_case(7, (48, 48, 48), 4.0, contrasts=name) for name in ("fitted", "broad"))
    np.testing.assert_array_equal(fitted.label, broad.label)
    for modality in MODALITIES:
        assert not np.array_equal(fitted.images[modality], broad.images[modality])


def test_broad_ranges_hold_the_fitted_means():
    for modality in MODALITIES:
        for tissue in TISSUES:
            low, high = BROAD_CONTRASTS[modality][tissue]
            assert low <= CONTRASTS[modality][tissue].mean <= high, (modality, tissue)


def test_broad_contrasts_vary_more_from_case_to_case():
    def brightness(contrasts):
        values = []
        for seed in range(30, 42):
            case = make_phantom_case(seed, (48, 48, 48), 4.0, "ring", contrasts)
            image = case.images["flair"].astype(float)
            brain = image > 0
            values.append((image[case.label == 2].mean() - image[brain].mean()) / image[brain].std())
        return np.std(values)

    assert brightness("broad") > 1.2 * brightness("fitted")


def test_unknown_contrasts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="fitted"):
        make_phantom_case(0, contrasts="brod")
    with pytest.raises(ValueError, match="fitted"):
        PhantomStudies(tmp_path, contrasts="brod")
