"""The weights of a release: trained, scored and described by one command, and taken up by the packages."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch

TINY = Path(__file__).resolve().parents[1] / "data" / "study_tiny.json"


@pytest.fixture
def script(load_script):
    return load_script("train_release_weights")


def test_a_bundle_is_trained_scored_described_and_packaged(script, load_script, tmp_path):
    out, weights = tmp_path / "out", tmp_path / "weights"
    page = tmp_path / "page.md"
    command = [str(TINY), "--output_dir", str(out), "--weights_dir", str(weights), "--only", "unet_pmix"]
    command += ["--page", str(page)]
    cases = out / "data" / "phantom" / "cases"  # which the run makes, and which stand in for real ones
    cases.mkdir(parents=True)
    assert script.main([*command, "--real_dir", str(cases), "--real_cases", "five phantoms"]) == 0
    assert sorted(path.name for path in weights.iterdir()) == ["unet_pmix"]
    folder = weights / "unet_pmix"
    trained = torch.load(out / "runs" / "unet_pmix-default-phantom-seed0" / "training" / "model.pt", weights_only=True)
    released = torch.load(folder / "model.pt", weights_only=True)
    assert all(torch.equal(released[name], value) for name, value in trained.items())
    assert json.loads((folder / "model.json").read_text()) == {"spacing_mm": 6.0}
    network = {"network_def#stem_channels": 2}  # which inference cannot tell from the weights
    assert json.loads((folder / "settings.json").read_text()) == {"train": network, "inference": network}
    text = " ".join((folder / "weights.md").read_text().split())
    assert "demonstration, not for patients" in text
    assert "saw 2 synthetic phantoms" in text
    assert "Mean Dice over 2 further phantoms" in text
    assert "Mean Dice over 5 real cases, on their own grids (five phantoms)" in text
    assert text.count("| all | 0.") == 2
    together = page.read_text()
    assert f"| `unet_pmix` | 0.0 M | {(folder / 'model.pt').stat().st_size / 2**20:.1f} | 2 |" in together
    assert "Mean Dice over 2 phantoms" in together
    assert "Average: of all, FLAIR+T1+T2, FLAIR, T2, T1ce, T1" in " ".join(together.split())
    assert "Mean Dice over 5 real cases (`--real_dir`), on their own grids (five phantoms)" in " ".join(
        together.split()
    )
    assert together.count("| `unet_pmix` | ") == 3
    # a second time nothing is scored again, but other cases are not told by the scores of these
    evaluation = out / "runs" / "unet_pmix-default-phantom-seed0" / "real" / "evaluation"
    scores, protocol = evaluation / "summary.csv", json.loads((evaluation / "protocol.json").read_text())
    assert protocol["run"]["settings"]["spacing_mm"] == 6.0  # real cases are brought to the phantom's voxels
    written = scores.stat().st_mtime_ns
    assert script.main([*command, "--real_dir", str(cases), "--real_cases", "five phantoms"]) == 0
    assert scores.stat().st_mtime_ns == written
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    (fewer / "Phantom_300").symlink_to(cases / "Phantom_300")
    assert script.main([*command, "--real_dir", str(fewer), "--real_cases", "one phantom"]) == 0
    assert "Mean Dice over 1 real cases" in (folder / "weights.md").read_text()
    assert "Mean Dice over 1 real cases" in page.read_text()
    study = script.read_study(TINY)
    script.write_page(page, script.chosen_jobs(study, out, None), study, cases, "five phantoms")
    assert "real cases" not in page.read_text()  # the scores are those of one phantom
    package = load_script("package_bundles")
    package.main(["--weights_dir", str(weights), "--only", "unet_pmix", "--output_dir", str(tmp_path / "dist")])
    with zipfile.ZipFile(next((tmp_path / "dist").glob("*.zip"))) as archive:
        assert archive.read("unet_pmix/models/model.pt") == (folder / "model.pt").read_bytes()
        assert archive.read("unet_pmix/docs/weights.md") == (folder / "weights.md").read_bytes()
        assert json.loads(archive.read("unet_pmix/configs/inference.json"))["network_def"]["stem_channels"] == 2


def test_scores_of_different_numbers_of_cases_are_not_put_into_one_table(script):
    training = script.Training("unet_pmix", "tiny", 1, 2, 6.0, 5, 1, 0.0, {})
    values = {region: {"all": 0.5, "average": 0.25} for region in ("WT", "TC", "ET")}
    released = [script.Released(training, 2**20, script.Scores(cases, values), None) for cases in (5, 4)]
    with pytest.raises(ValueError, match=r"different numbers of cases, \[4, 5\]"):
        script.overview(released)
    page = script.overview(released[:1])
    assert "| `unet_pmix` | 0.50 | 0.50 | 0.50 | 0.25 | 0.25 | 0.25 |" in page
    assert "real cases" not in page


def test_what_cannot_be_released_is_refused_before_anything_starts(script, tmp_path, capsys):
    assert script.main([str(TINY), "--output_dir", str(tmp_path), "--only", "rfnet_pmix"]) == 1
    assert "--only names ['rfnet_pmix'], which study tiny does not train" in capsys.readouterr().err
    content = {**json.loads(TINY.read_text()), "data": {"patients": {"dataset_dir": str(tmp_path), "folds": 2}}}
    (tmp_path / "study.json").write_text(json.dumps(content))
    assert script.main([str(tmp_path / "study.json"), "--output_dir", str(tmp_path)]) == 1
    assert "only weights of phantoms are released" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main([str(TINY), "--real_dir", str(tmp_path)])
    assert "belong together" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.json"]


def test_the_definition_gives_every_bundle_one_run(script, tmp_path):
    study = script.read_study(script.DEFINITION)
    bundles = sorted(path.parents[1].name for path in study.bundles_dir.glob("*/configs/train.json"))
    jobs = list(script.chosen_jobs(study, tmp_path, None))
    assert sorted(job.run.bundle for job in jobs) == bundles
    assert {job.run.seed for job in jobs} == {0}
    assert len(bundles) == 20
