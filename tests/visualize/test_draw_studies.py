from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest

from medmap_components.modalities import MODALITIES
from medmap_components.visualize import CLASS_COLOURS, StudyPicture, draw_studies
from medmap_components.visualize import segmentation as drawing


def study(missing=(), **changes) -> StudyPicture:
    """A bright block of brain with a small tumour whose largest slice is z = 6."""
    random = np.random.RandomState(0)
    brain = np.zeros((20, 24, 12))
    brain[3:17, 4:20, 1:11] = 1
    labels = np.zeros(brain.shape, np.uint8)
    labels[6:10, 8:12, 5] = 2
    labels[6:12, 8:16, 6] = 2
    labels[7:10, 9:12, 6] = 3
    labels[8, 10, 6] = 1
    images = {name: brain * random.uniform(1, 2, brain.shape) for name in MODALITIES if name not in missing}
    content = {"title": "case", "images": images, "prediction": labels, "reference": labels}
    return StudyPicture(**{**content, **changes})


def colours(picture: np.ndarray) -> set[str]:
    pixels = np.unique((picture[..., :3] * 255).round().astype(int).reshape(-1, 3), axis=0)
    return {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in pixels}


def test_a_picture_is_written_with_all_class_colours(tmp_path):
    path = draw_studies([study()], tmp_path / "new" / "picture.png", title="title")
    assert path == tmp_path / "new" / "picture.png"
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 100
    assert picture.shape[1] > picture.shape[0]
    assert set(CLASS_COLOURS.values()) <= colours(picture)


def test_there_is_one_row_per_study_and_a_reference_column_where_there_is_one(tmp_path):
    def size(*studies):
        return matplotlib.image.imread(draw_studies(studies, tmp_path / "x.png")).shape

    one, two = size(study()), size(study(), study(reference=None))
    assert two[0] > 1.5 * one[0]
    assert two[1] == one[1]
    assert size(study(reference=None))[1] < one[1]


def test_a_missing_modality_is_a_panel_that_says_so(tmp_path, monkeypatch):
    drawn: list[tuple[str, str]] = []
    for name in ("draw_image", "draw_missing"):
        original = getattr(drawing, name)

        def spy(panel, *arguments, _name=name, _original=original):
            _original(panel, *arguments)
            drawn.append((_name, " ".join(text.get_text() for text in panel.texts)))

        monkeypatch.setattr(drawing, name, spy)
    draw_studies([study(missing=("t1ce", "t2"))], tmp_path / "x.png")
    assert drawn == [("draw_image", ""), ("draw_missing", "missing")] * 2


def test_the_slice_is_the_one_with_most_tumour():
    assert drawing.slice_with_most_tumour(study()) == 6
    other = np.zeros((20, 24, 12), np.uint8)
    other[5:9, 5:9, 9] = 1
    # the expert's tumour decides where there is one
    assert drawing.slice_with_most_tumour(study(prediction=other)) == 6
    assert drawing.slice_with_most_tumour(study(prediction=other, reference=None)) == 9
    nothing = np.zeros_like(other)
    assert drawing.slice_with_most_tumour(study(prediction=other, reference=nothing)) == 9
    assert drawing.slice_with_most_tumour(study(prediction=nothing, reference=None)) == 6


def test_a_study_without_tumour_can_be_drawn(tmp_path):
    nothing = np.zeros((20, 24, 12), np.uint8)
    draw_studies([study(prediction=nothing, reference=nothing)], tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0


def test_volumes_of_different_shapes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'case' differ in shape.*'prediction': \(2, 2, 2\)"):
        draw_studies([study(prediction=np.zeros((2, 2, 2), np.uint8))], tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"'reference': \(2, 2, 2\)"):
        draw_studies([study(reference=np.zeros((2, 2, 2), np.uint8))], tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ValueError, match="studies is empty"):
        draw_studies([], tmp_path / "x.png")
