"""Figures of evaluations: what is drawn where, and what is refused."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from medmap_components.metrics import METRICS, SCORED_REGIONS, CaseScore, column
from medmap_components.metrics.comparison import Difference
from medmap_components.modalities import MODALITIES, SUBSETS
from medmap_components.visualize import StudyPicture, draw_summary
from medmap_components.visualize.forest import draw_forest
from medmap_components.visualize.latents import draw_latents
from medmap_components.visualize.palette import INK, draw_subset_matrix
from medmap_components.visualize.subset_grid import SubsetPicture, draw_subset_grid


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def spy(self, *arguments, **keywords):
        figures.append(self)
        return save(self, *arguments, **keywords)

    monkeypatch.setattr(Figure, "savefig", spy)
    return figures


def case(study: str, subset: str, value: float) -> CaseScore:
    return CaseScore(study, subset, subset, {column(m, r): value for m in METRICS for r in SCORED_REGIONS})


def test_the_summary_shows_means_and_studies_per_subset(tmp_path, drawn):
    cases = [case("a", "T2", 0.2), case("b", "T2", 0.6), case("a", "all", 1.0)]
    path = draw_summary(cases, SUBSETS, tmp_path / "new" / "summary.png", "net")
    assert path.is_file()
    panels = drawn[0].axes
    assert [panel.get_ylabel() for panel in panels] == ["Dice", "HD95 (mm)", ""]
    means = [line.get_ydata().tolist() for line in panels[0].lines if str(line.get_label()).endswith("(mean)")]
    assert means == [[pytest.approx(0.4), 1.0]] * 3
    points = [line.get_ydata() for line in panels[0].lines if line.get_marker() == "."]
    assert sorted(len(values) for values in points) == [1, 1, 1, 2, 2, 2]
    assert "net · 2 studies" in drawn[0]._suptitle.get_text()
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_summary([], SUBSETS, tmp_path / "x.png")


@pytest.mark.parametrize("subsets", [SUBSETS[:1], SUBSETS], ids=["one subset", "all subsets"])
def test_title_and_legend_of_the_summary_do_not_overlap(tmp_path, drawn, subsets):
    cases = [case("a", subset.name, 0.2) for subset in subsets]
    draw_summary(cases, subsets, tmp_path / "summary.png", "mmformer_pmix, seed 0")
    (figure,) = drawn
    title, legend = (part.get_window_extent() for part in (figure._suptitle, figure.legends[0]))
    assert not title.overlaps(legend)


def test_the_matrix_fills_the_available_modalities():
    panel = Figure().subplots()
    draw_subset_matrix(panel, SUBSETS)
    filled = {tuple(map(int, line.get_xydata()[0])) for line in panel.lines if line.get_markerfacecolor() == INK}
    assert filled == {(x, y) for x, subset in enumerate(SUBSETS) for y in range(4) if subset.mask[y]}


def difference(method: str, region: str, subset: str, mean: float, p: float) -> Difference:
    return Difference(method, "plain", "Dice", region, subset, 9, mean, mean - 0.01, mean + 0.02, p, p * 3)


def test_the_forest_has_a_line_per_subset_and_fills_what_is_significant(tmp_path, drawn):
    rows = [
        difference("new", region, subset, mean, p)
        for region in ("WT", "TC", "ET")
        for subset, mean, p in (("T2", 0.05, 0.01), ("all", -0.03, 0.03), ("average", 0.01, 0.5))
    ]
    draw_forest(rows, tmp_path / "forest.png")
    panel = drawn[0].axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["T2", "all", "average"]
    points = [line for line in panel.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == pytest.approx([5, -3, 1])
    assert [line.get_markerfacecolor() != "white" for line in points] == [True, False, False]
    bars = [line.get_xdata() for line in panel.lines if line.get_linewidth() == 1.6]
    np.testing.assert_allclose(bars[0], [4, 7])
    draw_forest(rows, tmp_path / "forest.png", corrected=False)
    filled = [line.get_markerfacecolor() != "white" for line in drawn[1].axes[0].lines if line.get_marker() == "o"]
    assert filled == [True, True, False]
    assert "plain better" in drawn[0].axes[1].get_xlabel()
    with pytest.raises(ValueError, match=r"nothing of the metric 'HD95'"):
        draw_forest(rows, tmp_path / "x.png", "HD95")


def picture_of(value: float, labels: np.ndarray) -> SubsetPicture:
    return SubsetPicture(labels, {"WT": value, "TC": value / 2, "ET": 0.0})


def test_the_grid_has_inputs_and_every_subset_of_every_method(tmp_path, drawn):
    labels = np.zeros((12, 14, 6), np.uint8)
    labels[3:6, 4:8, 3] = 2
    images = {name: np.ones(labels.shape) for name in MODALITIES if name != "t1"}
    study = StudyPicture("case", images, labels, labels)
    methods = {
        name: {subset.name: picture_of(value, labels) for subset in SUBSETS}
        for name, value in (("plain", 0.5), ("new", 0.75))
    }
    path = draw_subset_grid(study, methods, tmp_path / "grid.png")
    assert matplotlib.image.imread(path).shape[0] > 500
    titles = [panel.get_title() for panel in drawn[0].axes if panel.get_title()]
    assert titles == ["FLAIR", "T1ce", "T1", "T2", "reference", *(subset.name for subset in SUBSETS)]
    below = [panel.get_xlabel() for panel in drawn[0].axes if panel.get_xlabel()]
    assert below.count("WT 0.50  TC 0.25  ET 0.00") == below.count("WT 0.75  TC 0.38  ET 0.00") == 15
    assert [panel.get_ylabel() for panel in drawn[0].axes if panel.get_ylabel()] == ["plain", "new"] * 2
    assert any(text.get_text() == "missing" for text in drawn[0].axes[2].texts)


def test_a_grid_of_different_subsets_or_of_nothing_is_refused(tmp_path):
    labels = np.zeros((12, 14, 6), np.uint8)
    study = StudyPicture("case", {"t1": np.ones(labels.shape)}, labels, labels)
    methods = {"a": {"T1": picture_of(1, labels)}, "b": {"T2": picture_of(1, labels)}}
    with pytest.raises(ValueError, match=r"methods \['b'\] have other subsets"):
        draw_subset_grid(study, methods, tmp_path / "x.png")
    with pytest.raises(ValueError, match="needs a reference"):
        draw_subset_grid(study._replace(reference=None), methods, tmp_path / "x.png")


def test_latents_have_a_panel_per_method_and_a_mark_per_modality(tmp_path, drawn):
    points, modality = np.arange(16.0).reshape(8, 2), np.array([0, 0, 0, 1, 1, 3, 3, 3])
    draw_latents({"plain": (points, modality), "new": (points, modality)}, tmp_path / "x.png", ["one", "two"])
    panels = drawn[0].axes
    assert [(panel.get_title(), panel.get_xlabel()) for panel in panels] == [("plain", "one"), ("new", "two")]
    assert [len(line.get_xdata()) for line in panels[0].lines] == [3, 2, 0, 3]
    assert len({line.get_marker() for line in panels[0].lines}) == len({line.get_color() for line in panels[0].lines})
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["FLAIR", "T1ce", "T2"]
    with pytest.raises(ValueError, match="maps is empty"):
        draw_latents({}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="one text per method, got 1 for 2"):
        draw_latents({"a": (points, modality), "b": (points, modality)}, tmp_path / "x.png", ["one"])
