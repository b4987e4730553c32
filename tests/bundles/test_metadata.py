from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest

import medmap_components
from medmap_components.modalities import CLASS_NAMES, MODALITIES, MODALITY_LABELS

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = json.loads(Path(__file__).with_name("metadata_schema.json").read_text(encoding="utf-8"))
CURRENT_SCHEMA = "meta_schema_20240725.json"

pytestmark = pytest.mark.bundles("every")


@pytest.fixture
def metadata(bundle):
    return bundle.read("metadata")


def pinned_versions() -> dict[str, str]:
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = (re.match(r"([A-Za-z0-9_-]+)(?:\[.*\])?==([^\s#]+)", line) for line in lines)
    return {pin[1].lower(): pin[2] for pin in pins if pin}


def test_metadata_follow_the_current_schema(metadata):
    jsonschema.validate(metadata, SCHEMA, jsonschema.Draft201909Validator)
    assert metadata["schema"].endswith(f"/{CURRENT_SCHEMA}")
    assert metadata["schema"].startswith("https://")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), None),
        (("version",), 1),
        (("references",), "one paper"),
        (("network_data_format", "inputs", "image", "num_channels"), "4"),
        (("network_data_format", "outputs"), None),
        (("network_data_format", "inputs", "image", "value_range"), None),
    ],
)
def test_the_schema_refuses_what_monai_refuses(metadata, path, value):
    broken = copy.deepcopy(metadata)
    place = broken
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA, jsonschema.Draft201909Validator)


def test_the_version_is_that_of_the_package_and_stands_in_the_changelog(metadata):
    assert metadata["version"] in metadata["changelog"]
    assert metadata["required_packages_version"]["medmap-components"] == medmap_components.__version__


def test_required_packages_are_the_tested_ones(metadata):
    pins = pinned_versions()
    assert metadata["monai_version"] == pins["monai"]
    assert metadata["pytorch_version"] == pins["torch"]
    assert metadata["numpy_version"] == pins["numpy"]
    others = {name: v for name, v in metadata["required_packages_version"].items() if name != "medmap-components"}
    assert others == {name: pins.get(name) for name in others}
    # whatever the package itself needs is named
    assert {"nibabel", "pytorch-ignite", "scipy", "tqdm", "matplotlib", "tensorboard", "fire"} <= others.keys()


def test_channels_are_named_as_in_the_package(metadata):
    formats = metadata["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    assert image["channel_def"] == {str(i): MODALITY_LABELS[name] for i, name in enumerate(MODALITIES)}
    assert pred["channel_def"] == {str(i): name for i, name in enumerate(CLASS_NAMES)}
    assert image["num_channels"] == len(MODALITIES)
    assert pred["num_channels"] == len(CLASS_NAMES)
    assert metadata["modalities"] == list(MODALITIES)


def test_the_first_input_is_image_and_the_first_output_pred(metadata):
    # MONAI Label takes the first of each, and verify_net_in_out these names
    formats = metadata["network_data_format"]
    assert next(iter(formats["inputs"])) == "image"
    assert next(iter(formats["outputs"])) == "pred"


def test_the_name_says_backbone_and_anchor(bundle, metadata):
    assert bundle.root.name == f"{metadata['backbone']}_{metadata['anchor']}"
