"""Segmenting folders of studies with tiny weights."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

OBLIQUE = np.array([[0, 1.2, 0, -20], [-0.9, 0, 0.3, 35], [0.4, 0, 2.0, -8], [0, 0, 0, 1.0]])
STUDIES = {
    # name: modalities, affine (None for the LPS one of the fixtures), shape
    "complete": (("flair", "t1ce", "t1", "t2"), None, (16, 18, 14)),
    "two": (("flair", "t2"), None, (18, 16, 15)),
    "one": (("t1ce",), None, (15, 15, 15)),
    "no_t1": (("flair", "t1ce", "t2"), None, (16, 18, 14)),
    "ras": (("flair", "t1ce", "t1"), np.diag([1.0, 1.0, 1.0, 1.0]), (16, 18, 14)),
    "oblique": (("t1", "t2"), OBLIQUE, (14, 12, 20)),
    "larger_than_a_window": (("flair", "t1ce", "t1", "t2"), None, (50, 34, 40)),
}


@pytest.fixture(scope="module")
def weights(bundle, tmp_path_factory) -> Path:
    """Random weights, drawn until noise comes out as all four classes."""
    workflow = bundle.workflow("inference", "infer", crop_size=[32, 32, 32], **bundle.tiny_network)
    workflow.initialize()
    for seed in range(100):
        torch.manual_seed(seed)
        network = workflow.parser.get_parsed_content("network_def", instantiate=True).eval()
        workflow.parser.ref_resolver.reset()
        with torch.no_grad():
            shares = network(torch.randn(1, 4, 32, 32, 32)).argmax(1).flatten().bincount(minlength=4) / 32**3
        if shares.min() > 0.02:
            path = tmp_path_factory.mktemp("weights") / "model.pt"
            torch.save(network.state_dict(), path)
            return path
    pytest.fail("no seed gives weights with which all classes occur")


@pytest.fixture(scope="module")
def studies(make_study, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("studies")
    for name, (modalities, affine, shape) in STUDIES.items():
        geometry = {} if affine is None else {"affine": affine}
        make_study(root / name, name, modalities=modalities, label=False, shape=shape, **geometry)
    return root


@pytest.fixture(scope="module")
def segmented(bundle, weights, studies, tmp_path_factory) -> Path:
    return bundle.infer(studies, tmp_path_factory.mktemp("segmented"), weights)


def segmentation(folder: Path, name: str) -> nib.Nifti1Image:
    return nib.load(folder / name / f"{name}_seg.nii.gz")


def voxels(folder: Path, name: str) -> np.ndarray:
    return np.asarray(segmentation(folder, name).dataobj)


def test_there_is_one_segmentation_per_study_and_the_report(segmented):
    files = sorted(str(path.relative_to(segmented)) for path in segmented.rglob("*") if path.is_file())
    assert files == sorted([*(f"{name}/{name}_seg.nii.gz" for name in STUDIES), "report.csv", "report.html"])


@pytest.mark.parametrize("name", STUDIES)
def test_a_segmentation_lies_in_the_space_of_its_study(segmented, studies, name):
    source = nib.load(next((studies / name).glob("*.nii.gz")))
    result = segmentation(segmented, name)
    assert result.shape == source.shape
    np.testing.assert_allclose(result.affine, source.affine, atol=1e-5)
    assert result.get_data_dtype() == np.uint8
    assert set(np.unique(result.dataobj)) <= {0, 1, 2, 3}


def test_the_weights_find_more_than_one_class(segmented):
    # otherwise the comparisons of this file would show nothing
    assert len(np.unique(voxels(segmented, "complete"))) >= 3
    assert not np.array_equal(voxels(segmented, "complete"), voxels(segmented, "no_t1"))


def test_the_orientation_of_the_files_does_not_matter(bundle, studies, segmented, weights, tmp_path):
    turned = nib.orientations.axcodes2ornt("SAR")
    name = "complete"
    for path in sorted((studies / name).glob("*.nii.gz")):
        image = nib.load(path)
        change = nib.orientations.ornt_transform(nib.orientations.io_orientation(image.affine), turned)
        (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
        nib.save(image.as_reoriented(change), tmp_path / "in" / name / path.name)
    result = segmentation(bundle.infer(tmp_path / "in", tmp_path / "out", weights), name)
    assert nib.aff2axcodes(result.affine) == ("S", "A", "R")
    original = segmentation(segmented, name)
    back = nib.orientations.ornt_transform(turned, nib.orientations.io_orientation(original.affine))
    np.testing.assert_array_equal(np.asarray(result.as_reoriented(back).dataobj), np.asarray(original.dataobj))


def test_enhancing_tumour_is_4_on_request(bundle, make_study, weights, tmp_path):
    make_study(tmp_path / "in", "case", label=False, shape=(50, 34, 40))
    three = voxels(bundle.infer(tmp_path / "in", tmp_path / "3", weights), "case")
    four = voxels(bundle.infer(tmp_path / "in", tmp_path / "4", weights, et_label=4), "case")
    assert 3 in three
    np.testing.assert_array_equal(four, np.where(three == 3, 4, three))


@pytest.mark.parametrize(
    "overrides",
    [{"modalities": ["flair", "t1ce", "t2"]}, {"displayable_configs#use_t1": False}],
    ids=["modalities", "displayable_configs"],
)
def test_a_modality_that_is_switched_off_is_as_good_as_absent(bundle, studies, segmented, weights, tmp_path, overrides):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "complete").symlink_to(studies / "complete")
    result = bundle.infer(tmp_path / "in", tmp_path / "out", weights, **overrides)
    np.testing.assert_array_equal(voxels(result, "complete"), voxels(segmented, "no_t1"))


def test_a_run_goes_on_where_it_stopped_and_draws_what_it_does(bundle, studies, weights, tmp_path):
    for name in ("complete", "one"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).symlink_to(studies / name)
        bundle.infer(tmp_path / "in", tmp_path / "out", weights, resume=True, report_pictures=True)
        written = (tmp_path / "out" / name / f"{name}_seg.nii.gz").stat().st_mtime_ns
        if name == "complete":
            first = written
    assert (tmp_path / "out" / "complete" / "complete_seg.nii.gz").stat().st_mtime_ns == first
    table = (tmp_path / "out" / "report.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["study", "complete", "one"]
    pages = [(tmp_path / "out" / name).read_text() for name in ("report.html", "report_2.html")]
    assert ["data:image/jpeg;base64," in page for page in pages] == [True, True]
    bundle.infer(tmp_path / "in", tmp_path / "out", weights, resume=True)
    assert not (tmp_path / "out" / "report_3.html").exists()


@pytest.mark.parametrize("run_id", [None, "run", "evaluating", ""])
def test_every_run_id_segments_exactly_once(bundle, studies, weights, tmp_path, monkeypatch, run_id):
    runs: list[str] = []
    monkeypatch.setattr("monai.engines.Evaluator.run", lambda self, *_: runs.append(type(self).__name__))
    overrides = {"dataset_dir": str(studies), "checkpoint": str(weights), "output_dir": str(tmp_path)}
    bundle.run("inference", run_id, **overrides, **bundle.tiny_network)
    assert len(runs) == 1
