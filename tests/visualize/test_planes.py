from __future__ import annotations

from io import BytesIO

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from medmap_components.visualize import PlanesPicture, draw_planes
from medmap_components.visualize.planes import PLANES, _cut, _in_mm, crossing_point

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def study(names=("flair", "t2"), shape=(40, 50, 30), lesion=True, affine=LPS) -> PlanesPicture:
    """A brain of rising values to the patient's left, with a large and a small lesion."""
    volume = np.zeros(shape)
    volume[4:-4, 4:-4, 4:-4] = np.arange(shape[0] - 8)[:, None, None] + 1
    labels = np.zeros(shape, np.uint8)
    if lesion:
        labels[8:20, 30:40, 10:16] = 2
        labels[10:14, 32:36, 11:15] = 3
        labels[30:33, 8:11, 20:23] = 1
    return PlanesPicture(dict.fromkeys(names, volume), labels, affine, affine)


def pixels(picture: bytes) -> np.ndarray:
    return matplotlib.image.imread(BytesIO(picture), format="jpeg").astype(int)


def share(picture: bytes, colour: tuple[int, int, int]) -> float:
    """Share of pixels whose colour is near to one."""
    return float((np.abs(pixels(picture) - colour).max(axis=-1) < 60).mean())


GREEN, YELLOW = (49, 216, 67), (255, 225, 25)


def test_planes_cross_where_the_largest_lesion_is_widest():
    picture = study()
    x, y, z = crossing_point(picture.labels, picture.volumes)
    assert (x, y, z) == (14, 35, 13)
    picture.labels[15, 30:45, 10:16] = 2  # wider in the slice x = 15
    assert crossing_point(picture.labels, picture.volumes)[0] == 15


def test_without_a_tumour_they_cross_in_the_middle_of_the_brain():
    picture = study(lesion=False)
    assert crossing_point(picture.labels, picture.volumes) == (19, 24, 14)


def test_the_views_follow_radiological_convention():
    # a voxel to the patient's right (low x), front (low y) and head (high z)
    volume = np.zeros((10, 12, 14))
    volume[1, 2, 12] = 1
    axial, coronal, sagittal = PLANES
    assert np.argwhere(_cut(volume, axial, 12)).tolist() == [[2, 1]]  # row: near the top is the front; left: the right
    assert np.argwhere(_cut(volume, coronal, 2)).tolist() == [[1, 1]]  # head on top
    assert np.argwhere(_cut(volume, sagittal, 1)).tolist() == [[1, 2]]  # face to the left


def test_positions_are_told_in_the_patients_directions():
    affine = np.array([[-1.0, 0, 0, 20], [0, -1.0, 0, 30], [0, 0, 1.0, -40], [0, 0, 0, 1]])
    assert [_in_mm(axis, (8, 35, 12), affine) for axis in range(3)] == ["R 12 mm", "P 5 mm", "I 28 mm"]


def test_contours_are_drawn_where_there_is_tumour_and_only_there():
    drawn, empty = draw_planes(study()), draw_planes(study(lesion=False))
    for colour in (GREEN, YELLOW):
        assert share(drawn, colour) > 1e-3
        assert share(empty, colour) == 0


def test_a_picture_has_a_column_for_each_modality_and_true_proportions():
    one, two = (pixels(draw_planes(study(names))).shape for names in (("t1",), ("t1", "t2")))
    assert two[0] == one[0]
    assert two[1] > 1.5 * one[1]
    # slices of 3 mm: the coronal and sagittal rows are three times as high
    thin, thick = (pixels(draw_planes(study(affine=np.diag([-1.0, -1, step, 1])))).shape[0] for step in (1, 3))
    inches = 2 * 2 * 30 * 2.1 / 180  # two rows, 60 mm more each
    assert thick - thin == pytest.approx(inches * 120, abs=2)


@pytest.mark.parametrize("names", [("t1",), ("flair", "t1ce", "t1", "t2")])
def test_the_caption_stays_inside_the_picture_and_below_the_images(names, monkeypatch):
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: [drawn.append(self), save(self, *args, **kwargs)]
    )
    draw_planes(study(names, affine=np.diag([-4.0, -4, 4, 1])))  # as large as a head
    (caption,) = (text for text in drawn[0].texts if "Right is on" in text.get_text().replace("\n", " "))
    box, whole = caption.get_window_extent(), drawn[0].bbox
    assert box.x0 >= 0
    assert box.x1 <= whole.x1
    assert box.y0 >= 0
    assert box.y1 <= min(panel.get_window_extent().y0 for panel in drawn[0].axes)


def test_the_background_is_black():
    picture = pixels(draw_planes(study(lesion=False)))
    assert picture[0, 0].max() < 8
    assert np.median(picture) < 8 or (picture < 8).mean() > 0.3


def test_volumes_of_different_shapes_are_refused():
    picture = study()
    with pytest.raises(ValueError, match=r"one shape; got .*\(2, 2, 2\)"):
        draw_planes(picture._replace(labels=np.zeros((2, 2, 2))))
    with pytest.raises(ValueError, match="at least one modality"):
        draw_planes(picture._replace(volumes={}))
