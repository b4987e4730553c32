"""A converted checkpoint segments from NIfTI to label map as its authors' code does.

``data/published_paths.npz`` holds what that code gave: their ``preprocess.py`` (its functions ``crop`` and
``normalize``) on a real case, then their ``predict.test_softmax`` with their network, of
https://github.com/dyh127/RFNet at 1e475fa5de4ac3f41f8de3d3102bb8b28383c2c4, in float32 on a CPU with torch 2.13.0, all
parameters filled by ``tests/networks/formula.py``. None of their code is here. The case is BraTS2021_01480: whole, and
a part of it (``PARTS``) that takes three windows. Of the part's 825 600 voxels 1 differed at full comparison.
Entries that begin with ``mmformer`` are the same of https://github.com/YaoZhang93/mmFormer at
b18663adbfd0323656083e0470420c8c715c1782, whose windows of 128 are two in its part. ``by_hand`` spells the rules of both
out.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from medmap_components.modalities import MODALITIES
from medmap_components.networks import MMFormer, RFNet, mmformer_weights, rfnet_weights
from tests.bundles.conftest import REPOSITORY, Bundle
from tests.networks import formula

CASE = "BraTS2021_01480"
PARTS = {
    "rfnet": (slice(45, 195), slice(88, 168), slice(25, 105)),
    "mmformer": (slice(50, 190), slice(70, 198), slice(10, 138)),
}
EMPTY_PLANES = (slice(0, 15), slice(130, None))
TINY = {"img_size": 32, "base_channels": 4, "embed_dim": 16, "mlp_dim": 24}
# the brain of the made-up study; along x it is 91 voxels long, so the box grows by 19 and 20 to 11:140
SHAPE, BRAIN, BOX = (140, 34, 20), (slice(30, 121), slice(5, 31), slice(0, 20)), slice(11, 140)


def checkpoint_of(backbone: str, path: Path, **sizes) -> Path:
    """A file as the authors' training writes it, with weights by formula."""
    if backbone == "mmformer":
        network, module, raised = MMFormer(**sizes), mmformer_weights, 1
    else:
        network, module, raised = RFNet(**sizes), rfnet_weights, 0
    state = formula.published_state(network, module.published_key_map(), raised=raised)
    if backbone == "rfnet":
        unused = {key: state[key.removesuffix("bias") + "weight"].shape[:1] for key in rfnet_weights.UNUSED}
        state |= {key: formula.fill(key, tuple(shape), raised) for key, shape in unused.items()}
    torch.save({"epoch": 299, "state_dict": {f"module.{k}": v for k, v in state.items()}, "optim_dict": {}}, path)
    return path


@pytest.fixture(scope="module")
def convert(command_line, tmp_path_factory):
    """Runs the command and gives the new bundle and what was printed."""

    def run(backbone: str, **sizes) -> tuple[Bundle, str]:
        folder = tmp_path_factory.mktemp(backbone)
        file = checkpoint_of(backbone, folder / "model_last.pth", **sizes)
        target = folder / "converted"
        result = command_line("scripts/convert_checkpoint.py", file, "--output_dir", target)
        assert result.returncode == 0, result.stderr
        return Bundle(target, folder), result.stdout

    return run


@pytest.fixture(scope="module")
def tiny_mmformer(convert):
    return convert("mmformer", **TINY)


@pytest.fixture(scope="module")
def tiny_rfnet(convert):
    return convert("rfnet", base_channels=4)


@pytest.fixture(scope="module")
def study(make_nifti, tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder with one study that lacks T1, and its voxels."""
    random = np.random.RandomState(0)
    waves = np.sin(np.indices(SHAPE) / np.array([9.0, 4.0, 3.0]).reshape(3, 1, 1, 1)).sum(axis=0)
    folder, arrays = tmp_path_factory.mktemp("made_up"), {}
    for position, modality in enumerate(MODALITIES):
        voxels = np.zeros(SHAPE, np.float32)
        voxels[BRAIN] = (500 + 100 * position + 60 * np.roll(waves, 5 * position, 0) + random.randint(0, 90, SHAPE))[
            BRAIN
        ]
        arrays[modality] = voxels.round()
        if modality != "t1":
            make_nifti(folder / "study" / f"study_{modality}.nii.gz", arrays[modality].astype(np.int16))
    arrays["t1"][:] = 0
    return folder, arrays


def by_hand(network: torch.nn.Module, arrays: dict[str, np.ndarray], side: int) -> np.ndarray:
    """The label map of the study, with the published rules spelled out for it alone."""
    volume = np.stack([arrays[modality][BOX] for modality in MODALITIES]).astype(np.float64)
    brain = volume.sum(axis=0) > 0
    for channel in (0, 1, 3):
        values = volume[channel][brain]
        volume[channel] -= values.mean()
        volume[channel] /= values.std()
        # what is added where the study is shorter than the window is background too
        assert volume[channel].min() == volume[channel][0, 0, 0] < -1
    padding = [(0, max(0, side - size)) for size in volume.shape[1:]]
    volume = np.stack([np.pad(channel, padding, constant_values=channel[0, 0, 0]) for channel in volume])
    image = torch.from_numpy(volume).float()[None]
    size = image.shape[2:]
    starts = [sorted({*range(0, length - side, side // 2), length - side}) for length in size]
    total, count = torch.zeros(4, *size), torch.zeros(size)
    for corner in itertools.product(*starts):
        window = tuple(slice(start, start + side) for start in corner)
        with torch.no_grad():
            logits = network(image[(slice(None), slice(None), *window)], torch.tensor([[True, True, False, True]]))
        total[(slice(None), *window)] += logits[0].softmax(dim=0)
        count[window] += 1
    result = np.zeros(SHAPE, np.uint8)
    cropped = (total / count).argmax(dim=0).numpy()
    result[BOX] = cropped[:, : SHAPE[1], : SHAPE[2]]
    return result


def voxels(file: Path) -> np.ndarray:
    return np.asarray(nib.load(file).dataobj)


@pytest.mark.parametrize("backbone", ["mmformer", "rfnet"])
def test_the_bundle_segments_by_the_published_rules(backbone, study, request, tmp_path):
    bundle, _ = request.getfixturevalue(f"tiny_{backbone}")
    folder, arrays = study
    window = {"crop_size": [32, 32, 32]} if backbone == "rfnet" else {}
    bundle.run("inference", dataset_dir=str(folder), output_dir=str(tmp_path), report_pictures=False, **window)
    found = voxels(tmp_path / "study" / "study_seg.nii.gz")
    network = MMFormer(**TINY, token_layout="published") if backbone == "mmformer" else RFNet(base_channels=4)
    network.load_state_dict(torch.load(bundle.root / "models" / "model.pt", weights_only=True))
    expected = by_hand(network.eval(), arrays, 32)
    assert len(np.unique(expected)) >= 3
    assert (found != expected).sum() <= 3
    for other in ({"preprocessing_scheme": "standard"}, {"blending": "constant"}):
        out = tmp_path / next(iter(other))
        bundle.run("inference", dataset_dir=str(folder), output_dir=str(out), report_pictures=False, **window, **other)
        assert (voxels(out / "study" / "study_seg.nii.gz") != expected).sum() > 30, other


def test_the_report_accounts_for_every_tensor(tiny_mmformer, tiny_rfnet):
    bundle, printed = tiny_rfnet
    report = json.loads((bundle.root / "docs" / "conversion.json").read_text())
    theirs = [key for group in report["renamed"].values() for key in group]
    assert len(theirs) + len(report["dropped"]) == 2 * (4 * 12 + 2 * (9 + 1) + 4 * (2 * 3 + 2 * 4 + 3 + 2))
    assert report["renamed"]["encoder.levels.1.down.weight"] == [f"{m}_encoder.e1_c1.conv.weight" for m in MODALITIES]
    assert set(report["dropped"]) == set(rfnet_weights.UNUSED)
    assert (report["missing"], report["left_in_the_file"], report["epoch"]) == ([], ["optim_dict"], 299)
    assert f"renamed: {len(theirs)} tensors, into {len(report['renamed'])} of ours" in printed
    assert "epoch 299" in printed
    bundle, printed = tiny_mmformer
    assert 'token_layout="published"' in printed
    assert "dropped: 0 tensors" in printed


@pytest.mark.parametrize("backbone", ["mmformer", "rfnet"])
def test_settings_stand_where_users_look(backbone, request):
    bundle, _ = request.getfixturevalue(f"tiny_{backbone}")
    for name in ("train", "inference"):
        config = bundle.read(name)
        assert config["preprocessing_scheme"] == config["blending"] == "published"
        assert config["crop_size"] == ([32] * 3 if backbone == "mmformer" else [80] * 3)
        assert config.get("token_layout") == ("published" if backbone == "mmformer" else None)
        assert f"{bundle.root.as_posix()}/configs" in config["_desc_"]
        assert "bundles/" not in config["_desc_"]
    metadata = bundle.read("metadata")
    assert "model_last.pth" in metadata["description"]
    assert "background -mean/std" in metadata["image_classes"]
    readme = (bundle.root / "docs" / "README.md").read_text()
    for untrue in ("Not trained on patients", "has not been trained"):
        assert untrue not in readme
        assert untrue not in metadata["description"]
    assert "terms of its authors" in " ".join(readme.split())


@pytest.mark.parametrize("backbone", ["mmformer", "rfnet"])
def test_training_and_validation_prepare_as_inference_does(backbone, request, make_study, tmp_path):
    bundle, _ = request.getfixturevalue(f"tiny_{backbone}")
    make_study(tmp_path / "case", "case", naming="brats2023", shape=(40, 36, 90))
    prepared = {}
    files = {"train#deterministic_transforms": "train", "validate#preprocessing": "train", "preprocessing": "inference"}
    for place, name in files.items():
        parser = ConfigParser()
        parser.read_config(str(bundle.config(name)))
        parser["crop_size"] = [32, 32, 32]
        parser["dataset_dir"] = str(tmp_path)
        content = parser.get_parsed_content(place)
        item = {"image": str(tmp_path / "case"), "label": str(tmp_path / "case" / "case-seg.nii.gz")}
        for step in content if isinstance(content, list) else content.transforms:
            if step is not None:
                item = step(item)
        prepared[place] = item
    first = prepared["preprocessing"]["image"]
    assert first.amin() < -0.5
    for place in list(files)[:2]:
        assert torch.equal(prepared[place]["image"].as_tensor(), first.as_tensor()), place
        assert prepared[place]["label"].shape[1:] == first.shape[1:]


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / "published_paths.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def wide_rfnet(convert):
    return convert("rfnet")[0]


@pytest.fixture(scope="module")
def wide_mmformer(convert):
    return convert("mmformer")[0]


@pytest.fixture(scope="module")
def parts_of_a_real_case(medmap_data, make_nifti, tmp_path_factory) -> dict[str, Path]:
    """A folder per backbone, with the study that its part makes."""
    folders = {}
    for backbone, part in PARTS.items():
        folders[backbone] = tmp_path_factory.mktemp(f"real_{backbone}")
        for name in (*MODALITIES, "seg"):
            voxels = np.asarray(nib.load(medmap_data / CASE / f"{CASE}_{name}.nii.gz").dataobj)[part].copy()
            if backbone == "rfnet":
                for planes in EMPTY_PLANES:
                    voxels[planes] = 0
            make_nifti(folders[backbone] / CASE / f"{CASE}_{name}.nii.gz", voxels.astype(np.int16))
    return folders


def sampled(volume: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return formula.sampled(torch.from_numpy(np.ascontiguousarray(volume)), stored.shape[-1]).numpy()


def as_published(labels: np.ndarray, published: dict[str, np.ndarray], name: str, subset: str = "all") -> None:
    """Compares a label map ``(X, Y, Z)`` of the study's own grid; outside of the published box it is background."""
    box = published[f"{name} box"].reshape(3, 2)
    inside = tuple(slice(*edges) for edges in box)
    cropped = labels[inside]
    assert cropped.shape == tuple(published[f"{name} shape"])
    assert labels.astype(bool).sum() == cropped.astype(bool).sum()
    counts = published[f"{name} counts {subset}"]
    assert counts.min() > 0.05 * counts.sum()
    # where two classes are equally probable to float32, rounding decides: 1 voxel in 100 000
    assert np.abs(np.bincount(cropped.ravel(), minlength=4) - counts).sum() <= 2e-5 * counts.sum()
    expected = published[f"{name} labels {subset}"]
    assert (sampled(cropped, expected) != expected).sum() <= 1


BOTH = pytest.mark.parametrize(("backbone", "prefix"), [("rfnet", ""), ("mmformer", "mmformer ")])


@BOTH
def test_a_part_of_a_real_case_is_segmented_as_published(
    backbone, prefix, request, parts_of_a_real_case, published, tmp_path
):
    bundle, folder = request.getfixturevalue(f"wide_{backbone}"), parts_of_a_real_case[backbone]
    bundle.run("inference", dataset_dir=str(folder), output_dir=str(tmp_path), report_pictures=False)
    as_published(voxels(tmp_path / CASE / f"{CASE}_seg.nii.gz"), published, f"{prefix}part")


@BOTH
def test_intensities_and_hidden_modalities_are_as_published(backbone, prefix, request, parts_of_a_real_case, published):
    # in evaluation all modalities make the brain mask, and the fusion sees two of them, as published
    bundle, folder, name = request.getfixturevalue(f"wide_{backbone}"), parts_of_a_real_case[backbone], f"{prefix}part"
    parser = ConfigParser()
    parser.read_config([str(bundle.config("train")), str(bundle.config("evaluate"))])
    parser.update(
        {
            "dataset_dir": str(folder),
            "checkpoint": str(bundle.root / "models" / "model.pt"),
            "subsets": [["t1ce", "t2"]],
        }
    )
    study = str(folder / CASE)
    item = {"image": study, "label": f"{study}/{CASE}_seg.nii.gz", "label_scheme": "brats2018"}
    image = parser.get_parsed_content("validate#preprocessing")(item)["image"][None]
    expected = published[f"{name} intensities"]
    np.testing.assert_allclose(sampled(image[0].numpy(), expected), expected, rtol=1e-4, atol=1e-5)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(parser.get_parsed_content("checkpoint"), weights_only=True))
    with torch.no_grad():
        logits = parser.get_parsed_content("validate#inferer")(image, network)[0, 0]
    labels = np.zeros([part.stop - part.start for part in PARTS[backbone]], np.uint8)
    start, end = published[f"{name} box"].reshape(3, 2)[0]
    labels[start:end] = logits.argmax(dim=0).numpy()
    as_published(labels, published, name, "T1ce+T2")


@pytest.mark.slow
@BOTH
def test_a_whole_real_case_is_segmented_as_published(backbone, prefix, request, medmap_data, published, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / CASE).symlink_to(medmap_data / CASE)
    bundle = request.getfixturevalue(f"wide_{backbone}")
    bundle.run("inference", dataset_dir=str(tmp_path / "in"), output_dir=str(tmp_path), report_pictures=False)
    as_published(voxels(tmp_path / CASE / f"{CASE}_seg.nii.gz"), published, f"{prefix}whole")


def test_what_cannot_be_converted_leaves_nothing_behind(command_line, tiny_rfnet, tmp_path):
    torch.save({"state_dict": {"module.conv.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    target = tmp_path / "converted"
    result = command_line("scripts/convert_checkpoint.py", tmp_path / "other.pth", "--output_dir", target)
    assert result.returncode == 1
    assert "of no network that can be converted" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["other.pth"]
    file = tiny_rfnet[0].root.parent / "model_last.pth"
    result = command_line("scripts/convert_checkpoint.py", file, "--output_dir", tmp_path)
    assert (result.returncode, "exists already" in result.stderr) == (1, True)
    source = REPOSITORY / "bundles" / "rfnet_pmix"
    result = command_line("scripts/convert_checkpoint.py", file, "--output_dir", target, "--bundle", source)
    assert (result.returncode, "has no anchor" in result.stderr) == (1, True)
