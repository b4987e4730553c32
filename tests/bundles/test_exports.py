"""The checks and the export that MONAI's command line offers for a bundle's network."""

from __future__ import annotations

import monai.bundle
import pytest
import torch

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


@pytest.mark.bundles("every")
def test_a_traced_export_gives_what_the_network_gives(bundle, network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "model.pt")
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(bundle.config("metadata")),
        config_file=str(bundle.config("inference")),
        use_trace=True,
        input_shape=[1, 4, *CROP],
        crop_size=CROP,
        **bundle.tiny_network,
    )
    exported = torch.jit.load(tmp_path / "model.ts").eval()
    image = torch.randn(1, 4, *CROP)
    with torch.no_grad():
        expected = network(image)
        torch.testing.assert_close(exported(image), expected, rtol=1e-3, atol=1e-4)
        # an output that did not depend on the image would pass for anything
        assert not torch.allclose(network(image.roll(7, 2)), expected, atol=1e-3)
