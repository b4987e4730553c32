"""Every layout of the field, written in small and found again, alone and mixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medmap_components.data import describe_studies, find_studies
from medmap_components.data.label_codes import scheme_of_names
from medmap_components.data.layouts import parse_file_name
from medmap_components.modalities import MODALITIES
from medmap_components.transforms import EXISTS_KEY, LoadBratsLabeld, LoadStudy, LoadStudyd

MSD_JSON = {
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
}
NNUNET_JSON = {
    "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"},
    "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
}
TSV = "index\tname\n1\tNecrotic core\n2\tEnhancing tumor\n3\tOedema\n"


class Writer:
    """Writes the one tiny study in every layout; label values as each layout has them for the classes 1, 2, 3."""

    def __init__(self, root: Path, make_nifti: Callable[..., Path], arrays: dict[str, np.ndarray]) -> None:
        self.root, self.make_nifti, self.arrays = root, make_nifti, arrays

    def image(self, path: str, modality: str) -> None:
        self.make_nifti(self.root / path, self.arrays[modality])

    def label(self, path: str, *values: int) -> None:
        coded = np.zeros_like(self.arrays["label"])
        for label, value in enumerate(values, start=1):
            coded[self.arrays["label"] == label] = value
        self.make_nifti(self.root / path, coded)

    def channels(self, path: str, order: str) -> None:
        self.make_nifti(self.root / path, np.stack([self.arrays[name] for name in order.split()], axis=-1))

    def json(self, path: str, content: dict) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(json.dumps(content))

    def named(self, folder: str, stem: str, suffixes: str, extension: str = ".nii.gz") -> None:
        for modality, suffix in zip(MODALITIES, suffixes.split(), strict=True):
            self.image(f"{folder}/{stem}{suffix}{extension}", modality)

    def brats2018(self) -> None:
        self.named("HGG/Brats18_CBICA_AAB_1", "Brats18_CBICA_AAB_1", "_flair _t1ce _t1 _t2")
        self.label("HGG/Brats18_CBICA_AAB_1/Brats18_CBICA_AAB_1_seg.nii.gz", 1, 2, 4)

    def kaggle2020(self) -> None:
        self.named("T/BraTS20_Training_355", "BraTS20_Training_355", "_flair _t1ce _t1 _t2", ".nii")
        self.label("T/BraTS20_Training_355/W39_1998.09.19_Segm.nii", 1, 2, 4)

    def brats2023(self) -> None:
        self.named("BraTS-GLI-00000-000", "BraTS-GLI-00000-000", "-t2f -t1c -t1n -t2w")
        self.label("BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz", 1, 2, 3)

    def brats2024(self) -> None:
        self.named("BraTS-GLI-02063-104", "BraTS-GLI-02063-104", "-t2f -t1c -t1n -t2w")
        self.label("BraTS-GLI-02063-104/BraTS-GLI-02063-104-seg.nii.gz", 1, 2, 3, 4)

    def msd(self) -> None:
        self.json("Task01/dataset.json", MSD_JSON)
        self.channels("Task01/imagesTr/BRATS_001.nii.gz", "flair t1 t1ce t2")
        (self.root / "Task01/imagesTr/._BRATS_001.nii.gz").write_bytes(b"macOS")
        self.label("Task01/labelsTr/BRATS_001.nii.gz", 2, 1, 3)

    def nnunet(self) -> None:
        self.json("Dataset137/dataset.json", NNUNET_JSON)
        for number, modality in enumerate(("t1", "t1ce", "t2", "flair")):
            self.image(f"Dataset137/imagesTr/case_7_{number:04d}.nii.gz", modality)
        self.label("Dataset137/labelsTr/case_7.nii.gz", 2, 1, 3)

    def bids(self) -> None:
        folder, stem = "bids/sub-01/ses-pre/anat", "sub-01_ses-pre"
        for name, modality in (("acq-ax_FLAIR", "flair"), ("T2w", "t2"), ("T1w", "t1")):
            self.image(f"{folder}/{stem}_{name}.nii.gz", modality)
        self.image(f"{folder}/{stem}_acq-ax_ce-gadolinium_run-1_T1w.nii.gz", "t1ce")
        derived = f"bids/derivatives/manual/sub-01/ses-pre/anat/{stem}_desc-expert_dseg"
        self.label(f"{derived}.nii.gz", 1, 3, 2)
        (self.root / f"{derived}.tsv").write_text(TSV)

    def docker(self) -> None:
        self.named("patient7", "", "fla t1c t1 t2")

    def four_channels(self) -> None:
        self.channels("loose.nii.gz", "flair t1ce t1 t2")


LAYOUTS = {
    # how it is written: study, key, has a label
    "brats2018": ("Brats18_CBICA_AAB_1", "brats2018", True),
    "kaggle2020": ("BraTS20_Training_355", "brats2018", True),
    "brats2023": ("BraTS-GLI-00000-000", "brats2023", True),
    "brats2024": ("BraTS-GLI-02063-104", "brats2024", True),
    "msd": ("BRATS_001", "msd", True),
    "nnunet": ("case_7", "nnunet", True),
    "bids": ("sub-01_ses-pre", "bids", True),
    "docker": ("patient7", "brats2018", False),
    "four_channels": ("loose", "channels", False),
}


@pytest.fixture
def classes(tiny_arrays) -> dict[str, np.ndarray]:
    """The tiny study with the classes 1, 2, 3, and one voxel of 4 for what BraTS 2024 has besides."""
    arrays = tiny_arrays(enhancing=3)
    arrays["label"][5, 5, 5] = 4
    return arrays


@pytest.fixture
def writer(tmp_path: Path, make_nifti, classes) -> Writer:
    return Writer(tmp_path, make_nifti, classes)


def assert_is_the_study(image: torch.Tensor, arrays: dict[str, np.ndarray]) -> None:
    assert image.meta[EXISTS_KEY].all()
    for index, modality in enumerate(MODALITIES):
        np.testing.assert_array_equal(np.asarray(image[index]), arrays[modality], err_msg=modality)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("forced", [False, True], ids=["recognised", "forced"])
def test_a_layout_is_read_alone(writer: Writer, classes, kind: str, forced: bool):
    name, layout, _ = LAYOUTS[kind]
    getattr(writer, kind)()
    (item,) = find_studies(writer.root, labels=False, layout=layout if forced else None)
    assert (item["study"], item["layout"]) == (name, layout)
    assert_is_the_study(LoadStudyd("image")(item)["image"], classes)


@pytest.mark.parametrize("kind", [kind for kind, (_, _, labelled) in LAYOUTS.items() if labelled])
def test_labels_become_the_same_classes_from_every_coding(writer: Writer, classes, kind: str):
    getattr(writer, kind)()
    (item,) = find_studies(writer.root)
    item = LoadBratsLabeld("label")(LoadStudyd("image")(item))
    # the resection cavity of BraTS 2024, 4, is no tumour, and never enhancing
    expected = np.where(classes["label"] == 4, 0, classes["label"])
    np.testing.assert_array_equal(np.asarray(item["label"][0]), expected)


def test_all_layouts_are_read_mixed_in_one_folder(writer: Writer, classes):
    for kind in LAYOUTS:
        getattr(writer, kind)()
    items = {item["study"]: item for item in find_studies(writer.root, labels=False)}
    assert {name: item["layout"] for name, item in items.items()} == {n: key for n, key, _ in LAYOUTS.values()}
    for item in items.values():
        assert_is_the_study(LoadStudyd("image")(item)["image"], classes)
    labelled = find_studies(writer.root)
    assert len(labelled) == sum(has_label for _, _, has_label in LAYOUTS.values())
    text = describe_studies(list(items.values()))
    assert "3 x BraTS 2018-2021: BraTS20_Training_355, Brats18_CBICA_AAB_1, patient7" in text
    assert "1 x MSD Task01 (channels: flair, t1, t1ce, t2): BRATS_001" in text


def test_a_forced_layout_is_the_only_one_that_is_read(writer: Writer):
    for kind in ("brats2018", "brats2023", "bids"):
        getattr(writer, kind)()
    assert [item["study"] for item in find_studies(writer.root, layout="bids")] == ["sub-01_ses-pre"]
    names = [item["study"] for item in find_studies(writer.root, layout="brats2023")]
    assert names == ["BraTS-GLI-00000-000"]
    with pytest.raises(ValueError, match=r"layout 'brats19' is unknown; choose among \['brats2018'"):
        find_studies(writer.root, layout="brats19")
    items = find_studies(writer.root, labels=False, layout="nnunet")
    assert {item["layout"] for item in items} == {"unrecognised"}
    assert "4 x NOT RECOGNISED" in describe_studies(items)
    for item in items:
        with pytest.raises(ValueError, match=r"no readable modality|is a segmentation"):
            LoadStudyd("image", layout="nnunet")(item)


@pytest.mark.parametrize("place", ["imagesTr/case.nii.gz", "x/BRATS_017.nii.gz"])
def test_four_channels_that_may_be_msd_are_asked_about(writer: Writer, classes, place: str):
    writer.channels(place, "flair t1 t1ce t2")
    for read in (lambda: find_studies(writer.root, labels=False), lambda: LoadStudy()(writer.root / place)):
        with pytest.raises(ValueError, match=r"looks like MSD.*dataset\.json.*'msd'.*'channels'"):
            read()
    (item,) = find_studies(writer.root, labels=False, layout="msd")
    assert_is_the_study(LoadStudyd("image")(item)["image"], classes)
    assert_is_the_study(LoadStudy(layout="msd")(writer.root / place), classes)
    # read in our own order, T1 and T1ce trade places
    image = LoadStudy(layout="channels")(writer.root / place)
    np.testing.assert_array_equal(np.asarray(image[1]), classes["t1"])


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("msd", "Task01/imagesTr/BRATS_001.nii.gz"),
        ("nnunet", "Dataset137/imagesTr/case_7_0002.nii.gz"),
        ("bids", "bids/sub-01/ses-pre/anat/sub-01_ses-pre_T2w.nii.gz"),
        ("bids", "bids/sub-01/ses-pre/anat"),
        ("docker", "patient7"),
    ],
)
def test_one_path_leads_to_the_whole_study(writer: Writer, classes, kind: str, path: str):
    getattr(writer, kind)()
    assert_is_the_study(LoadStudy()(writer.root / path), classes)


def test_numbers_are_named_by_the_dataset_json_or_refused(writer: Writer):
    writer.nnunet()
    order = {"channel_names": {"0": "FLAIR", "1": "T2w", "2": "mystery", "3": "T1-Gd"}}
    writer.json("Dataset137/dataset.json", order)
    (item,) = find_studies(writer.root, labels=False)
    numbers = {modality: path[-11:-7] for modality, path in item["image"].items()}
    assert numbers == {"flair": "0000", "t2": "0001", "t1ce": "0003"}
    (writer.root / "Dataset137/dataset.json").unlink()
    with pytest.raises(ValueError, match=r"case_7_0000\.nii\.gz.*dataset\.json.*never guessed"):
        find_studies(writer.root, labels=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"channel_names": {"0": "PD", "1": "DWI"}}, r"\['PD', 'DWI'\], of which \[\]"),
        ({"channel_names": {"0": "T1", "1": "T1w"}}, r"\['t1', 't1'\]"),
    ],
)
def test_a_dataset_json_that_names_nothing_usable_is_refused(writer: Writer, content: dict, message: str):
    writer.nnunet()
    writer.json("Dataset137/dataset.json", content)
    with pytest.raises(ValueError, match=message):
        find_studies(writer.root, labels=False)


def test_files_that_are_missing_are_missing_modalities_in_every_layout(writer: Writer):
    writer.nnunet()
    writer.bids()
    (writer.root / "Dataset137/imagesTr/case_7_0001.nii.gz").unlink()
    (writer.root / "bids/sub-01/ses-pre/anat/sub-01_ses-pre_T1w.nii.gz").unlink()
    items = find_studies(writer.root, labels=False)
    assert [sorted(item["image"]) for item in items] == [["flair", "t1", "t2"], ["flair", "t1ce", "t2"]]
    assert "1 x BIDS, 1 of them incomplete: sub-01_ses-pre" in describe_studies(items)


@pytest.mark.parametrize(
    ("name", "stem", "role"),
    [
        ("sub-01_T1w.nii.gz", "sub-01", "t1"),
        ("sub-01_ce-GADOLINIUM_T1w.nii", "sub-01", "t1ce"),
        ("sub-01_ses-2_acq-3d_run-02_FLAIR.nii.gz", "sub-01_ses-2", "flair"),
        ("sub-01_space-MNI152_desc-brain_T2w.nii.gz", "sub-01_space-mni152", "t2"),
        ("sub-01_dseg.nii.gz", "sub-01", "label"),
        ("sub-01_bold.nii.gz", "sub-01_bold", None),
        ("scan_T1w.nii.gz", "scan", "t1"),
    ],
)
def test_names_of_bids_are_read_by_their_entities(name: str, stem: str, role: str | None):
    parsed = parse_file_name(name)
    assert (parsed.stem, parsed.role) == (stem, role)


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        (MSD_JSON["labels"], "0=0,1=2,2=1,3=3"),
        (NNUNET_JSON["labels"], "0=0,1=2,2=1,3=3"),
        ({"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}, "0=0,1=1,2=2,3=3,4=0"),
        ({"background": 0, "necrosis": 1, "oedema": 2, "contrast enhancing": 4}, "0=0,1=1,2=2,4=3"),
        ({"background": 0, "lesion": 1}, None),
    ],
)
def test_label_names_tell_the_coding(labels: dict, scheme: str | None):
    assert scheme_of_names(labels) == scheme


def test_a_coding_that_nothing_names_is_told_by_all_values_together_or_asked_for(writer: Writer):
    writer.bids()
    next(writer.root.rglob("*.tsv")).unlink()
    with pytest.raises(ValueError, match=r"'sub-01_ses-pre'.*label_scheme to 'brats2018'.*'msd'"):
        find_studies(writer.root)
    assert find_studies(writer.root, label_scheme="msd")[0]["label_scheme"] == "msd"
    label = next(writer.root.rglob("*dseg.nii.gz")).relative_to(writer.root)
    writer.label(str(label), 1, 2, 4)
    assert find_studies(writer.root)[0]["label_scheme"] == "brats2018"
