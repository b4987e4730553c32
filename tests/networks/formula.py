"""Weights, an image and sample positions by formula, which two implementations can follow without sharing a file.

Weights: element i (from 0, row-major) of the tensor that the published network calls KEY is

    spread * u + offset,   u = 2 * (h >> 11) / 2**53 - 1,   h = mix(crc32(KEY) * 2**32 + i + 1)

in float64, then rounded to float32; ``mix`` is splitmix64's: multiply by 0x9E3779B97F4A7C15 modulo 2**64, then twice
xor-shift and multiply (30, 0xBF58476D1CE4E5B9; 27, 0x94D049BB133111EB), then xor-shift by 31. ``u`` lies in [-1, 1).

- weights of convolutions and linear layers: spread sqrt(6 / fan_in), which gives the variance 2 / fan_in;
- weights of layer norms: spread 0.2, offset 1;
- position tables: spread 0.5;
- biases: spread 0.3; one element of the bias of each layer in HEADS gets 0.8 more, or its class would hardly occur:
  element 1 in mmFormer, element 0 in RFNet. RFNet's probability maps need none.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch

from medmap_components.networks.published_weights import KeyMap

HEADS = tuple(f"{head}.bias" for head in ("seg_layer", "seg_d1", "seg_d2", "seg_d3", "seg_d4"))


def uniform(key: str, count: int) -> np.ndarray:
    state = np.uint64(zlib.crc32(key.encode())) << np.uint64(32)
    h = (state + np.arange(1, count + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    h = h ^ (h >> np.uint64(31))
    return 2 * (h >> np.uint64(11)).astype(np.float64) / 2.0**53 - 1


def fill(key: str, shape: tuple[int, ...], raised: int) -> torch.Tensor:
    spread, offset = 0.3, 0.0
    if key.endswith("_pos"):
        spread = 0.5
    elif ".norm.weight" in key:
        spread, offset = 0.2, 1.0
    elif key.endswith("weight"):
        spread = math.sqrt(6 / math.prod(shape[1:]))
    values = spread * uniform(key, math.prod(shape)) + offset
    if key.endswith(HEADS):
        values[raised] += 0.8
    return torch.from_numpy(values).float().reshape(shape)


def published_state(network: torch.nn.Module, key_map: KeyMap, raised: int) -> dict[str, torch.Tensor]:
    """The published network's state dict, but for what it does not use.

    Args:
        network: our network, for the shapes.
        key_map: its ``published_key_map()``.
        raised: the class whose bias is raised in every head.
    """
    state = {}
    own = network.state_dict()
    for ours, theirs in key_map.items():
        shape = (own[ours].shape[0] // len(theirs), *own[ours].shape[1:])
        if own[ours].dim() == 2 and ("embed" in ours or ours.startswith("bottleneck")):
            shape = (*shape, 1, 1, 1)
        state.update({key: fill(key, shape, raised) for key in theirs})
    return state


def image(size: int) -> torch.Tensor:
    """``(1, 4, size, size, size)``: four slowly varying volumes, different in every modality."""
    axis = np.arange(size, dtype=np.float64) / size
    d, h, w = np.meshgrid(axis, axis, axis, indexing="ij")
    volumes = []
    for m in range(4):
        waves = np.sin(2 * np.pi * ((m + 1) * d + 2 * h) + m) + np.cos(2 * np.pi * ((3 - m) * h - (m + 2) * w))
        blob = np.exp(-(((d - 0.3 - 0.1 * m) ** 2 + (h - 0.5) ** 2 + (w - 0.6 + 0.1 * m) ** 2) / 0.02))
        volumes.append(waves * (0.4 + w) + 3 * blob * np.sin(40 * (m + 1) * d * h * w))
    return torch.from_numpy(np.stack(volumes)).float().unsqueeze(0)


def sampled(volume: torch.Tensor, count: int) -> torch.Tensor:
    """``(..., D, H, W)`` at ``count`` voxels: number i has the row-major index (1640531 i + 12345) mod DHW."""
    flat = volume.flatten(-3)
    return flat[..., (1640531 * torch.arange(count) + 12345) % flat.shape[-1]]
