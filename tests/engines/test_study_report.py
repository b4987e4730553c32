from __future__ import annotations

import base64
import csv
import re

import pytest
import torch
from monai.data import MetaTensor

from medmap_components.engines import StudyDataset, StudyReport
from medmap_components.engines.study_report import COLUMNS
from medmap_components.transforms import with_mask

AFFINE = torch.diag(torch.tensor([-1.0, -1.0, 2.0, 1.0], dtype=torch.float64))
RESULT = {
    "modalities_used": ["flair", "t2"],
    "modalities_missing": ["t1ce", "t1"],
    "volumes_ml": {"WT": 12.3456, "TC": 2.0, "ET": 0.0},
    "spacing_mm": [1.0, 1.0, 2.0],
    "warnings": ["The slices are thick.", "FLAIR <b>looks</b> odd."],
    "cleanup": "",
}


def image(shape=(20, 20, 10)) -> MetaTensor:
    voxels = torch.zeros(4, *shape)
    voxels[:, 2:-2, 2:-2, 2:-2] = 1
    meta = {"original_affine": AFFINE.numpy()}
    return with_mask(MetaTensor(voxels, affine=AFFINE, meta=meta), torch.tensor([True, False, False, True]))


def labels(shape=(20, 20, 10)) -> MetaTensor:
    values = torch.zeros(1, *shape, dtype=torch.uint8)
    values[0, 5:9, 5:9, 4:7] = 2
    return MetaTensor(values, affine=AFFINE)


def add(report: StudyReport, study: str) -> None:
    report.add(study, "brats2018", RESULT, image(), labels())


def rows(folder) -> list[dict[str, str]]:
    with (folder / "report.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def html(folder, name="report.html") -> str:
    return (folder / name).read_text()


@pytest.fixture
def finished(tmp_path):
    report = StudyReport(tmp_path, {"overlap": 0.5, "clean-up: keep_largest": False})
    report.start()
    add(report, "good")
    report.add_failure("bad", "bids", "study 'bad': a <file> is damaged")
    report.finish()
    return tmp_path


def test_the_table_has_a_line_for_each_study(finished):
    good, bad = rows(finished)
    assert tuple(good) == COLUMNS
    assert {**good, "seconds": ""} == {
        **dict.fromkeys(COLUMNS, ""),
        **{"study": "good", "status": "ok", "layout": "brats2018", "modalities_used": "flair t2"},
        **{"modalities_missing": "t1ce t1", "wt_ml": "12.346", "tc_ml": "2.000", "et_ml": "0.000"},
        **{"spacing_mm": "1 1 2", "warnings": "The slices are thick. FLAIR <b>looks</b> odd."},
    }
    assert float(good["seconds"]) >= 0
    assert (bad["study"], bad["status"], bad["layout"]) == ("bad", "failed", "bids")
    assert bad["reason"] == "study 'bad': a <file> is damaged"


def test_the_page_holds_pictures_reasons_and_settings_and_loads_nothing(finished):
    page = html(finished)
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 1
    assert base64.b64decode(pictures[0])[:2] == b"\xff\xd8"
    assert not re.search(r"https?://|<script|<link|url\(", page)
    for text in (
        "good",
        "12.3",
        "no T1ce",
        "The slices are thick.",
        "clean-up: keep_largest",
        "Radiological convention",
    ):
        assert text in page
    assert "a &lt;file&gt; is damaged" in page
    assert "&lt;b&gt;looks" in page
    assert "2 studies, 1 failed, 1 with warnings" in page


def test_an_interrupted_run_keeps_what_is_done(tmp_path):
    report = StudyReport(tmp_path, pictures=False)
    report.start()
    add(report, "a")
    # no finish(): the process was killed here
    assert [row["study"] for row in rows(tmp_path)] == ["a"]
    assert "12.3" in html(tmp_path)
    assert "display: none" not in html(tmp_path)
    assert "The run has not come to its end" in html(tmp_path)


def test_a_resumed_run_leaves_out_what_is_done_and_tries_failures_again(tmp_path):
    first = StudyReport(tmp_path, pictures=False)
    first.start()
    add(first, "a")
    first.add_failure("b", "", "no space left")
    with (tmp_path / "report.csv").open("a") as file:
        file.write("c,ok,brats")  # killed while writing
    again = StudyReport(tmp_path, pictures=False, resume=True)
    assert again.done() == {"a"}
    data = [{"study": name} for name in "abc"]
    assert [item["study"] for item in StudyDataset(data, report=again).items] == ["b", "c"]
    again.start()
    add(again, "b")
    again.finish()
    assert [(row["study"], row["status"]) for row in rows(tmp_path)] == [("a", "ok"), ("b", "ok")]
    assert "page 1" in html(tmp_path, "report_2.html")
    assert "12.3" in html(tmp_path)


def test_without_resume_an_earlier_table_is_kept_under_another_name(finished):
    report = StudyReport(finished)
    assert report.done() == set()
    report.start()
    assert rows(finished) == []
    assert (finished / "report.1.csv").is_file()


def test_pages_are_bounded_and_lead_to_each_other(tmp_path):
    report = StudyReport(tmp_path, pictures=False, studies_per_page=2)
    report.start()
    for name in "abcde":
        add(report, name)
        assert len(report.pages.entries) <= 2
    report.finish()
    assert len(rows(tmp_path)) == 5
    assert 'href="report_2.html"' in html(tmp_path)
    assert 'href="report_3.html"' in html(tmp_path, "report_2.html")
    assert 'href="report.html"' in html(tmp_path, "report_2.html")
    assert "1 study, 0 failed" in html(tmp_path, "report_3.html")
    with pytest.raises(ValueError, match="studies_per_page must be at least 1, got 0"):
        StudyReport(tmp_path, studies_per_page=0)


def test_labels_are_drawn_on_the_grid_of_the_prepared_image():
    from medmap_components.engines.study_report import _picture_of

    # the image is cropped, turned and resampled to 1 mm; the label map is the study's own
    turned = torch.tensor([[0, 0, 1.0, 3], [0, 1.0, 0, -4], [2.0, 0, 0, 5], [0, 0, 0, 1]], dtype=torch.float64)
    own = torch.zeros(1, 10, 20, 20, dtype=torch.uint8)
    own[0, 4:7, 5:9, 6:9] = 4
    label = MetaTensor(own, affine=turned)
    # LPS at 1 mm: x = 3 + k, so k = 6..8 is x = 9..11; y = j - 4 = 1..4; z = 5 + 2 i = 13..17
    grid = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
    grid[:3, 3] = torch.tensor([15.0, 8.0, 6.25])
    cropped = image((16, 14, 18))
    cropped.affine = grid
    picture = _picture_of(cropped, label)
    x, y, z = (sorted(set(places.tolist())) for places in (picture.labels == 3).nonzero())
    assert [15 - index for index in x] == [11, 10, 9]
    assert [8 - index for index in y] == [4, 3, 2, 1]
    # voxels of 2 mm around 13, 15 and 17 reach from 12 to 18
    assert [6.25 + index for index in z] == [12.25, 13.25, 14.25, 15.25, 16.25, 17.25]
    assert set(picture.volumes) == {"flair", "t2"}
