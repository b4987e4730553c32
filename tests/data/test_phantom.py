"""Tests of the synthetic phantom, on a coarse grid: 48^3 voxels of 4 mm."""

import json
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medmap_components.data.phantom import LESION_KINDS, PhantomStudies, make_phantom_case, write_phantom_case
from medmap_components.data.phantom import studies as studies_module
from medmap_components.data.phantom.appearance import TUMOUR_LIKENESS, _draw_case_means
from medmap_components.data.phantom.fields import depth_inside, largest_components, smooth_field
from medmap_components.data.phantom.parameters import CONTRASTS, TISSUES
from medmap_components.modalities import MODALITIES

COARSE = {"shape": (48, 48, 48), "spacing": 4.0}
STORED_VOLUMES = [1437, 609, 454]
STORED_MEANS = [460.374, 171.344, 187.768, 80.547]
SMALL_STUDIES = {"size": 48, "spacing": 4.0, "num_training": 3, "num_validation": 2}


@pytest.fixture(scope="module")
def ring():
    return make_phantom_case(3, **COARSE, kind="ring")


@pytest.fixture(scope="module")
def many_rings():
    return [make_phantom_case(seed, **COARSE, kind="ring") for seed in range(20, 28)]


def class_means(case, modality):
    brain = case.images[modality] > 0
    values = case.images[modality].astype(float)
    values = (values - values[brain].mean()) / values[brain].std()
    return {code: values[(case.label == code) & brain].mean() for code in (0, 1, 2, 4)}


def test_same_seed_gives_the_same_case_and_another_seed_another(ring):
    again, other = make_phantom_case(3, **COARSE, kind="ring"), make_phantom_case(4, **COARSE, kind="ring")
    np.testing.assert_array_equal(ring.label, again.label)
    for modality in MODALITIES:
        np.testing.assert_array_equal(ring.images[modality], again.images[modality])
        assert not np.array_equal(ring.images[modality], other.images[modality])


def test_images_are_int16_and_exactly_zero_outside_one_common_brain(ring):
    brain = ring.images["flair"] > 0
    for image in ring.images.values():
        assert image.dtype == np.int16
        assert image.min() == 0
        np.testing.assert_array_equal(image > 0, brain)
    assert ring.label.dtype == np.uint8
    assert not ring.label[~brain].any()
    assert 1100 < brain.sum() * 64 / 1000 < 1800  # mL


def test_orientation_and_origin_are_those_of_brats():
    case = make_phantom_case(0, (40, 48, 40), 4.0)
    assert nib.aff2axcodes(case.affine) == ("L", "P", "S")
    np.testing.assert_array_equal(case.affine[:3, 3], [0, 47 * 4, 0])
    np.testing.assert_array_equal(np.abs(np.diag(case.affine)), [4, 4, 4, 1])


@pytest.mark.parametrize("kind", list(LESION_KINDS))
def test_labels_are_brats_codes_and_every_kind_is_what_it_says(kind):
    case = make_phantom_case(11, **COARSE, kind=kind)
    volumes = {code: (case.label == code).sum() * 64 / 1000 for code in (1, 2, 4)}
    assert set(np.unique(case.label)) <= {0, 1, 2, 4}
    assert case.info["kind"] == kind
    assert volumes[2] > 1
    core = volumes[1] + volumes[4]
    assert volumes[4] < 0.15 * core if kind == "non_enhancing" else volumes[4] > 0.15 * core
    assert case.info["foci"] == 1 or kind == "multifocal"


def test_multifocal_tumours_have_separate_cores():
    cores = [np.isin(make_phantom_case(seed, **COARSE, kind="multifocal").label, (1, 4)) for seed in range(4)]
    assert max(ndimage.label(core)[1] for core in cores) >= 2


def test_volumes_are_those_that_were_planned(many_rings):
    for case in many_rings:
        whole = (case.label > 0).sum() * 64 / 1000
        assert whole == pytest.approx(case.info["planned_whole_tumour_ml"], rel=0.3)


def test_tumour_is_nested_with_edema_around_the_core_and_the_rim_at_its_surface(many_rings):
    surrounded, rim_depths, necrosis_depths = [], [], []
    for case in many_rings:
        core = np.isin(case.label, (1, 4))
        shell = ndimage.binary_dilation(core) & ~core & (case.images["t1"] > 0)
        surrounded.append((case.label[shell] == 2).mean())
        depth = ndimage.distance_transform_edt(core)
        rim_depths.append(depth[case.label == 4].mean())
        necrosis_depths.append(depth[case.label == 1].mean())
    assert np.mean(surrounded) > 0.4  # oedema fills a few per cent of the brain
    assert np.mean(rim_depths) < np.mean(necrosis_depths)


def test_modalities_carry_complementary_information(many_rings):
    means = {modality: [class_means(case, modality) for case in many_rings] for modality in MODALITIES}

    def contrast(modality, first, second):
        return np.median([case[first] - case[second] for case in means[modality]])

    assert contrast("t1ce", 4, 0) > 1  # enhancing tumour stands out on T1ce
    assert contrast("t1ce", 4, 2) > 1
    assert abs(contrast("t1", 4, 2)) < 0.7  # and hardly differs from oedema elsewhere
    assert abs(contrast("flair", 4, 2)) < 1
    assert contrast("flair", 2, 0) > 1  # oedema stands out on FLAIR and T2
    assert contrast("t2", 2, 0) > 0.3
    assert contrast("t1ce", 2, 0) < 0.3


def test_what_is_unusual_in_a_part_of_the_tumour_is_so_in_the_others():
    rng = np.random.default_rng(0)
    cases = [_draw_case_means(rng)["flair"] for _ in range(2000)]
    flair = dict(zip(TISSUES, np.array(cases).T, strict=True))
    for tissue, means in flair.items():
        # how much a tissue varies stays what the table says
        assert means.std() == pytest.approx(CONTRASTS["flair"][tissue].spread, rel=0.06)
    assert np.corrcoef(flair["edema"], flair["necrosis"])[0, 1] == pytest.approx(TUMOUR_LIKENESS, abs=0.05)
    assert np.corrcoef(flair["edema"], flair["enhancing"])[0, 1] == pytest.approx(TUMOUR_LIKENESS, abs=0.05)
    assert abs(np.corrcoef(flair["edema"], flair["wm"])[0, 1]) < 0.06


def test_contrast_varies_between_cases(many_rings):
    edema = [class_means(case, "flair")[2] for case in many_rings]
    assert np.std(edema) > 0.1


def test_statistics_are_those_of_every_machine():
    case = make_phantom_case(7, **COARSE)
    volumes = [int((case.label == code).sum()) for code in (1, 2, 4)]
    means = [case.images[modality][case.images[modality] > 0].mean() for modality in MODALITIES]
    # a voxel at a border may fall to the other side by rounding
    np.testing.assert_allclose(volumes, STORED_VOLUMES, atol=3)
    np.testing.assert_allclose(means, STORED_MEANS, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must be 0 or larger, got -1"),
        ({"kind": "round"}, "kind 'round' is unknown"),
        ({"spacing": 0.0}, "spacing be positive, got"),
        ({"shape": (48, 48, 32)}, r"shape \(48, 48, 32\) at spacing 4.0 mm covers"),
        ({"shape": (48, 48)}, "shape must hold three sizes"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_phantom_case(**{"seed": 0, **COARSE, **arguments})


def test_written_case_is_in_brats_naming_and_reads_back(tmp_path, ring):
    folder = write_phantom_case(tmp_path, "A", seed=3, kind="ring", **COARSE)
    names = sorted(file.name for file in folder.glob("*.nii.gz"))
    assert names == ["A_flair.nii.gz", "A_seg.nii.gz", "A_t1.nii.gz", "A_t1ce.nii.gz", "A_t2.nii.gz"]
    image = nib.load(folder / "A_t1ce.nii.gz")
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(image.dataobj), ring.images["t1ce"])
    np.testing.assert_array_equal(image.affine, ring.affine)
    assert [entry.name for entry in tmp_path.iterdir()] == ["A"]  # no scratch is left behind


def test_complete_case_is_kept_and_an_incomplete_one_is_made_again(tmp_path):
    folder = write_phantom_case(tmp_path, "A", seed=3, **COARSE)
    written = (folder / "A_t1.nii.gz").stat().st_mtime_ns
    write_phantom_case(tmp_path, "A", seed=3, **COARSE)
    assert (folder / "A_t1.nii.gz").stat().st_mtime_ns == written
    (folder / "A_t2.nii.gz").unlink()
    write_phantom_case(tmp_path, "A", seed=3, **COARSE)
    assert (folder / "A_t2.nii.gz").is_file()


def test_other_settings_replace_a_case(tmp_path):
    folder = write_phantom_case(tmp_path, "A", seed=3, **COARSE)
    write_phantom_case(tmp_path, "A", seed=4, modalities=["t2"], with_label=False, **COARSE)
    assert [file.name for file in folder.glob("*.nii.gz")] == ["A_t2.nii.gz"]
    assert json.loads((folder / "A_phantom.json").read_text())["settings"]["seed"] == 4


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(nib, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_phantom_case(tmp_path, "A", seed=3, **COARSE)
    assert list(tmp_path.iterdir()) == []


def test_studies_write_nothing_until_they_are_asked_for(tmp_path):
    studies = PhantomStudies(tmp_path / "phantom", **SMALL_STUDIES)
    assert len(studies) == 3
    assert studies.is_phantom
    assert not (tmp_path / "phantom").exists()
    item = studies[1]
    assert list(item["image"]) == list(MODALITIES)
    assert item["label_scheme"] == "brats2018"
    assert item["study"] == "Phantom_training_001"
    assert all(nib.load(path).shape == (48, 48, 48) for path in [*item["image"].values(), item["label"]])
    assert len(list(tmp_path.rglob("*_seg.nii.gz"))) == 1
    assert studies[-2] == item
    with pytest.raises(IndexError, match="index 3"):
        studies[3]


def test_sections_and_seeds_never_share_a_case(tmp_path):
    every = [
        PhantomStudies(tmp_path, section, seed=seed, **SMALL_STUDIES).case_seed(i)
        for seed in (0, 1)
        for section in ("training", "validation")
        for i in (0, 1, studies_module.SEEDS_PER_SECTION - 1)
    ]
    assert len(set(every)) == len(every)


def test_other_settings_use_another_folder(tmp_path):
    folders = {
        PhantomStudies(tmp_path, **{**SMALL_STUDIES, **change}).folder
        for change in ({}, {"size": 50}, {"spacing": 4.5}, {"seed": 1}, {"section": "validation"})
    }
    assert len(folders) == 5
    assert PhantomStudies(tmp_path, **{**SMALL_STUDIES, "num_training": 9}).folder in folders


def test_several_threads_may_ask_for_the_same_study(tmp_path):
    studies = PhantomStudies(tmp_path, **SMALL_STUDIES)
    with ThreadPoolExecutor(3) as pool:
        items = list(pool.map(studies.__getitem__, [0, 0, 0]))
    assert items[0] == items[1] == items[2]
    assert [entry.name for entry in studies.folder.iterdir()] == ["Phantom_training_000"]


def test_prepare_makes_all_and_the_object_can_be_sent_to_workers(tmp_path):
    studies = PhantomStudies(tmp_path, "validation", **SMALL_STUDIES).prepare(progress=False)
    assert len(list(studies.folder.glob("*/*_seg.nii.gz"))) == 2
    assert pickle.loads(pickle.dumps(studies))[0:2] == studies[0:2]


def test_the_phantom_announces_itself_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(studies_module, "_announced", set())
    monkeypatch.setattr(logging.getLogger("medmap_components"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="medmap_components"):
        PhantomStudies(tmp_path, "training", **SMALL_STUDIES)
        PhantomStudies(tmp_path, "validation", **SMALL_STUDIES)
    messages = [record.getMessage() for record in caplog.records if "PHANTOM" in record.getMessage()]
    assert len(messages) == 1
    assert str(tmp_path) in messages[0]
    assert "says nothing about patients" in messages[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"section": "testing"}, "section must be one of"),
        ({"num_training": 0}, "num_training must lie between 1 and 500000, got 0"),
        ({"seed": -2}, "seed must be 0 or larger, got -2"),
        ({"size": (10, 48, 48)}, r"shape \(10, 48, 48\) at spacing 4.0 mm"),
    ],
)
def test_bad_studies_are_refused_when_they_are_made(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        PhantomStudies(tmp_path, **{**SMALL_STUDIES, **arguments})


def test_smooth_field_is_standardised_and_as_smooth_as_asked():
    field = smooth_field(np.random.default_rng(0), (40, 50, 30), feature=24, spacing=2)
    assert field.shape == (40, 50, 30)
    assert field.mean() == pytest.approx(0, abs=1e-3)
    assert field.std() == pytest.approx(1, abs=1e-3)
    neighbour, far = ((field[:-lag] * field[lag:]).mean() for lag in (1, 20))
    assert neighbour > 0.9
    assert abs(far) < 0.4


def test_depth_and_components_of_a_simple_mask():
    mask = np.zeros((7, 5, 5), dtype=bool)
    mask[:3] = True
    mask[5, 2, 2] = True
    assert depth_inside(mask, spacing=2.0)[1, 2, 2] == 4.0  # two voxels of 2 mm to the nearest voxel outside
    assert not largest_components(mask, 1)[5, 2, 2]
    assert largest_components(mask, 2)[5, 2, 2]
