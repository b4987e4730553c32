"""The checks and the export that MONAI's command line offers for a bundle's network."""

from __future__ import annotations

import re
from pathlib import Path

import monai.bundle
import pytest
import torch

from medmap_components.modalities import SUBSETS

CROP = [32, 32, 32]
IMAGE_SHAPE = "_meta_#network_data_format#inputs#image#spatial_shape"


@pytest.fixture
def network(bundle):
    """The tiny network of the inference config."""
    workflow = bundle.workflow("inference", "infer", crop_size=CROP, **bundle.tiny_network)
    workflow.initialize()
    torch.manual_seed(0)
    return workflow.parser.get_parsed_content("network_def").eval()


@pytest.mark.bundles("every")
def test_the_training_config_has_all_properties(bundle, tmp_path):
    overrides = bundle.tiny_training(output_dir=str(tmp_path))
    workflow = bundle.workflow("train", "train", **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []
    for name in workflow.properties:
        assert getattr(workflow, name) is not None or name in (
            "dataset_dir",
            "train_key_metric",
            "train_postprocessing",
        )


@pytest.mark.bundles("every")
def test_the_inference_config_has_all_properties(bundle, tiny_dataset):
    workflow = bundle.workflow(
        "inference", "infer", dataset_dir=str(tiny_dataset), crop_size=CROP, **bundle.tiny_network
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    for name in workflow.properties:
        assert getattr(workflow, name) is not None or name == "key_metric"


@pytest.mark.bundles("one of each backbone")
def test_the_network_as_shipped_does_what_the_metadata_say(bundle):
    # full width, and the crop of the metadata
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle.config("metadata")),
        config_file=str(bundle.config("inference")),
        device="cpu",
    )


@pytest.mark.bundles("every")
def test_the_tiny_network_does_what_the_metadata_say(bundle):
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle.config("metadata")),
        config_file=str(bundle.config("inference")),
        device="cpu",
        crop_size=CROP,
        **{**bundle.tiny_network, IMAGE_SHAPE: CROP},
    )


def test_the_check_refuses_metadata_of_another_network(bundle):
    with pytest.raises(ValueError, match="output channel number"):
        monai.bundle.verify_net_in_out(
            net_id="network_def",
            meta_file=str(bundle.config("metadata")),
            config_file=str(bundle.config("inference")),
            device="cpu",
            crop_size=CROP,
            **{
                **bundle.tiny_network,
                IMAGE_SHAPE: CROP,
                "_meta_#network_data_format#outputs#pred#num_channels": 3,
            },
        )


@pytest.fixture
def weights(network, tmp_path) -> Path:
    torch.save(network.state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def as_settings(tiny: dict) -> list[str]:
    return ["--set", f"crop_size={CROP}", *(f"{key}={value}" for key, value in tiny.items())]


def in_onnxruntime(file: Path):
    """The graph in a file, as a function from its inputs to its only output, and the names of its inputs."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return run, names


def same_under_many_masks(graph, network) -> None:
    """All subsets but some that cost time and add nothing; what stands in an absent channel is another thing."""
    for subset in [*SUBSETS[:4], SUBSETS[6], SUBSETS[11], SUBSETS[14]]:
        mask = torch.tensor([subset.mask])
        image = torch.randn(1, 4, *CROP)
        with torch.no_grad():
            expected = network(image, mask)
            torch.testing.assert_close(graph(image, mask), expected, rtol=1e-3, atol=1e-3)
            assert subset.name == "all" or not torch.allclose(network(image), expected, atol=1e-2)
        noise = torch.where(mask[:, :, None, None, None], image, 100 * torch.randn_like(image))
        torch.testing.assert_close(graph(noise, mask), expected, rtol=1e-3, atol=1e-3)


def export_as_monai_does(export, bundle, weights, file: Path) -> Path:
    """Exports by a command of MONAI, which makes up one input."""
    export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=str(weights),
        meta_file=str(bundle.config("metadata")),
        config_file=str(bundle.config("inference")),
        use_trace=True,
        input_shape=[1, 4, *CROP],
        crop_size=CROP,
        **bundle.tiny_network,
    )
    return file


@pytest.mark.bundles("every")
def test_the_export_to_onnx_takes_the_mask(bundle, network, weights, tmp_path, load_script, capsys):
    pytest.importorskip("onnxscript")
    file = tmp_path / "model.onnx"
    arguments = [str(bundle.root), "--output_file", str(file), "--checkpoint", str(weights)]
    assert load_script("export_bundle").main([*arguments, *as_settings(bundle.tiny_network)]) == 0
    assert re.search(r"with 4 masks logits differ by at most [\d.e-]+\n", capsys.readouterr().out)
    graph, names = in_onnxruntime(file)
    assert names == ["image", "mask"]
    assert [path.name for path in tmp_path.glob("model.onnx*")] == ["model.onnx"]
    same_under_many_masks(graph, network)


@pytest.mark.bundles("every")
def test_the_traced_export_takes_the_mask(bundle, network, weights, tmp_path, load_script):
    arguments = [str(bundle.root), "--output_file", str(tmp_path / "model.ts"), "--checkpoint", str(weights)]
    assert load_script("export_bundle").main([*arguments, *as_settings(bundle.tiny_network)]) == 0
    same_under_many_masks(torch.jit.load(tmp_path / "model.ts"), network)


@pytest.mark.bundles("one of each backbone")
def test_monais_onnx_export_gives_what_the_network_gives_with_all_modalities(bundle, network, weights, tmp_path):
    pytest.importorskip("onnxscript")
    file = export_as_monai_does(monai.bundle.onnx_export, bundle, weights, tmp_path / "model.onnx")
    graph, names = in_onnxruntime(file)
    # the documented limit: MONAI makes up one input, so there is no mask
    assert len(names) == 1
    image = torch.randn(1, 4, *CROP)
    with torch.no_grad():
        torch.testing.assert_close(graph(image), network(image), rtol=1e-3, atol=1e-3)


def test_an_export_that_differs_is_noticed_and_removed(bundle, weights, tmp_path, load_script, monkeypatch, capsys):
    script = load_script("export_bundle")

    def wrong(network, inputs, file):
        file.write_bytes(b"graph")
        return lambda image, mask: network(image)

    monkeypatch.setitem(script.FORMATS, ".onnx", wrong)
    arguments = [str(bundle.root), "--output_file", str(tmp_path / "model.onnx"), "--checkpoint", str(weights)]
    assert script.main([*arguments, *as_settings(bundle.tiny_network)]) == 1
    assert "was removed" in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()


def test_weights_of_another_network_are_not_exported(bundle, tmp_path, load_script, capsys):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "model.pt")
    script = load_script("export_bundle")
    arguments = [str(bundle.root), "--output_file", str(tmp_path / "model.ts"), "--checkpoint"]
    for file, said in (("model.pt", "another network"), ("none.pt", "There are no weights at")):
        assert script.main([*arguments, str(tmp_path / file), *as_settings(bundle.tiny_network)]) == 1
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main([str(bundle.root), "--output_file", "model.tflite"])
    assert ".onnx" in capsys.readouterr().err


@pytest.mark.bundles("every")
def test_a_traced_export_gives_what_the_network_gives(bundle, network, weights, tmp_path):
    file = export_as_monai_does(monai.bundle.ckpt_export, bundle, weights, tmp_path / "model.ts")
    exported = torch.jit.load(file).eval()
    image = torch.randn(1, 4, *CROP)
    with torch.no_grad():
        expected = network(image)
        torch.testing.assert_close(exported(image), expected, rtol=1e-3, atol=1e-4)
        # an output that did not depend on the image would pass for anything
        assert not torch.allclose(network(image.roll(7, 2)), expected, atol=1e-3)
