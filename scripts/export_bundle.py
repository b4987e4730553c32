"""Export a bundle's network with the modality mask as its second input, to ONNX or TorchScript, and check the result.

Example:
    python scripts/export_bundle.py bundles/rfnet_pmix --output_file rfnet.onnx

The suffix says what is written: .onnx, or .ts for TorchScript. The graph takes "image", float32 (1, 4, D, H, W) in the
order FLAIR, T1ce, T1, T2, prepared as the bundle's inference prepares it, and "mask", bool (1, 4), True where there is
a modality; it gives "pred", logits (1, 4, D, H, W). Whatever stands in an absent channel changes nothing. The size is
that of the bundle's window; sliding it, and all that goes before and after, stays with the caller.

ONNX needs the packages onnx, onnxscript and, for the check, onnxruntime. The README has the limits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from bundle_arguments import literal
from monai.bundle import ConfigParser
from torch import Tensor, nn

from medmap_components.engines.weights import load_strictly
from medmap_components.modalities import MODALITIES, SUBSETS

TOLERANCE = 1e-3
"""Largest difference of a logit that is taken for rounding."""
CHECKED = ("all", "T1ce", "FLAIR+T2", "FLAIR+T1+T2")

Graph = Callable[[Tensor, Tensor], Tensor]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``--help`` explains it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="folder of a bundle")
    parser.add_argument("--output_file", type=Path, required=True, help="file to write, .onnx or .ts")
    parser.add_argument("--checkpoint", type=Path, help="weights (default: the bundle's own)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings of inference.json")
    parsed = parser.parse_args(arguments)
    if parsed.output_file.suffix not in FORMATS:
        parser.error(f"--output_file must end in one of {list(FORMATS)}, got {parsed.output_file.name}")
    return parsed


def network_of(bundle: Path, checkpoint: Path | None, settings: Sequence[str]) -> tuple[nn.Module, list[int]]:
    """The network with its weights, in eval mode, and the size of its window.

    Raises:
        FileNotFoundError: if the bundle or its weights are not there.
        ValueError: for weights of another network.
    """
    file = bundle / "configs" / "inference.json"
    if not file.is_file():
        raise FileNotFoundError(f"{bundle} is no bundle: it has no configs/inference.json.")
    parser = ConfigParser()
    parser.read_config(str(file))
    # outside of a run nothing tells the config where it lies
    parser["bundle_root"] = str(bundle)
    for pair in settings:
        key, _, value = pair.partition("=")
        parser[key] = literal(value)
    if checkpoint is not None:
        parser["checkpoint"] = str(checkpoint)
    network: nn.Module = parser.get_parsed_content("network_def")
    load_strictly(parser.get_parsed_content("checkpoint"), network)
    return network.eval(), [int(side) for side in parser.get_parsed_content("crop_size")]


def write_torchscript(network: nn.Module, inputs: tuple[Tensor, Tensor], file: Path) -> Graph:
    """Traces the network and returns what was written, read again."""
    torch.jit.save(torch.jit.trace(network, inputs, check_trace=False), str(file))  # type: ignore[no-untyped-call]
    graph: Graph = torch.jit.load(str(file))  # type: ignore[no-untyped-call]
    return graph


def write_onnx(network: nn.Module, inputs: tuple[Tensor, Tensor], file: Path) -> Graph | None:
    """Writes one ONNX file and returns it as onnxruntime runs it, or None where that is not installed."""
    torch.onnx.export(
        network,
        inputs,
        str(file),
        input_names=["image", "mask"],
        output_names=["pred"],
        # torch 2.6 cannot tell the networks that torch.export is at work; there tracing does it
        dynamo=hasattr(torch.compiler, "is_exporting"),
        external_data=False,
    )
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(image: Tensor, mask: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"image": image.numpy(), "mask": mask.numpy()})[0])

    return run


FORMATS = {".onnx": write_onnx, ".ts": write_torchscript}


def largest_difference(network: nn.Module, graph: Graph, size: Sequence[int]) -> float:
    """Of a logit, over images of noise with several subsets of the modalities."""
    generator = torch.Generator().manual_seed(1)
    worst = 0.0
    for subset in SUBSETS:
        if subset.name in CHECKED:
            image, mask = torch.randn(1, len(MODALITIES), *size, generator=generator), torch.tensor([subset.mask])
            worst = max(worst, float((graph(image, mask) - network(image, mask)).abs().max()))
    return worst


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    """Exports and checks as the command line asks; returns the exit code."""
    parsed = parse_arguments(arguments)
    try:
        network, size = network_of(parsed.bundle, parsed.checkpoint, parsed.set)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    image = torch.randn(1, len(MODALITIES), *size, generator=torch.Generator().manual_seed(0))
    inputs = image, torch.tensor([[True, False, True, True]])
    parsed.output_file.parent.mkdir(parents=True, exist_ok=True)
    graph = FORMATS[parsed.output_file.suffix](network, inputs, parsed.output_file)
    if graph is None:
        print(f"{parsed.output_file}: written, not checked: onnxruntime is not installed")
        return 0
    worst = largest_difference(network, graph, size)
    if not worst <= TOLERANCE:
        parsed.output_file.unlink()
        print(f"the export differs from the network by {worst:.2g} in a logit and was removed", file=sys.stderr)
        return 1
    print(f"{parsed.output_file}: window {size}; with {len(CHECKED)} masks logits differ by at most {worst:.2g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
