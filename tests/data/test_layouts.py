from __future__ import annotations

from pathlib import Path

import pytest

from medmap_components.data.layouts import label_scheme_of, parse_file_name
from medmap_components.data.study_files import group_studies


@pytest.mark.parametrize(
    ("name", "stem", "role"),
    [
        ("BraTS2021_00000_flair.nii.gz", "BraTS2021_00000", "flair"),
        ("BraTS20_Training_001_t1ce.nii", "BraTS20_Training_001", "t1ce"),
        ("a_t1.nii.gz", "a", "t1"),
        ("a_t2.nii.gz", "a", "t2"),
        ("BraTS-GLI-00000-000-t2f.nii.gz", "BraTS-GLI-00000-000", "flair"),
        ("BraTS-GLI-00000-000-t1c.nii.gz", "BraTS-GLI-00000-000", "t1ce"),
        ("BraTS-GLI-00000-000-t1n.nii.gz", "BraTS-GLI-00000-000", "t1"),
        ("BraTS-GLI-00000-000-t2w.nii.gz", "BraTS-GLI-00000-000", "t2"),
        ("BraTS-GLI-00000-000-seg.nii.gz", "BraTS-GLI-00000-000", "label"),
        ("UPENN_T1GD.NII.GZ", "UPENN", "t1ce"),
        ("FLAIR.nii", "", "flair"),
        ("case.v1_t2.nii.gz", "case.v1", "t2"),
        ("W39_1998.09.19_Segm.nii", "W39_1998.09.19_Segm", None),
        ("a_t1cex.nii.gz", "a_t1cex", None),
        ("bart1.nii.gz", "bart1", None),
    ],
)
def test_a_name_tells_study_and_modality(name: str, stem: str, role: str | None):
    parsed = parse_file_name(name)
    assert (parsed.stem, parsed.role) == (stem, role)


@pytest.mark.parametrize(
    ("suffixes", "scheme"),
    [
        ({"flair", "t1ce"}, "brats2018"),
        ({"t2f", "t1c"}, "brats2023"),
        ({"t1c", "flair"}, "brats2018"),
        ({"t1c"}, None),
        ({"flair", "t2w"}, None),
    ],
)
def test_naming_tells_the_label_scheme_or_that_it_is_open(suffixes: set[str], scheme: str | None):
    assert label_scheme_of(suffixes) == scheme


def test_files_of_one_stem_are_one_study_and_hidden_ones_are_ignored():
    names = ["a_flair.nii.gz", "A_T1.nii.gz", "b_t2.nii.gz", "._a_t2.nii.gz", "a_t2.txt", "x.nii.gz"]
    studies, others = group_studies(Path("d") / name for name in names)
    assert [(study.stem.lower(), sorted(study.modalities)) for study in studies] == [
        ("a", ["flair", "t1"]),
        ("b", ["t2"]),
    ]
    assert [path.name for path in others] == ["x.nii.gz"]


def test_the_only_other_file_that_speaks_of_segmentation_is_the_label():
    images = [Path(f"BraTS20_Training_355_{modality}.nii") for modality in ("flair", "t1", "t1ce", "t2")]
    (study,), others = group_studies([*images, Path("W39_1998.09.19_Segm.nii")])
    assert study.labels == [Path("W39_1998.09.19_Segm.nii")]
    assert others == []
    (study,), others = group_studies([*images, Path("brainmask.nii")])
    assert study.labels == []
    assert others == [Path("brainmask.nii")]


def test_two_files_of_one_modality_are_both_named():
    (study,), _ = group_studies([Path("a_t1.nii"), Path("a_t1.nii.gz")])
    with pytest.raises(ValueError, match=r"'a'.*'t1'.*a_t1\.nii'.*a_t1\.nii\.gz"):
        study.unique_modalities()
