"""MMFormer computes what the published mmFormer computes, given the same weights.

The numbers in ``data/mmformer_parity.npz`` (see ``parity.py``) came out of the published network,
https://github.com/YaoZhang93/mmFormer at commit b18663adbfd0323656083e0470420c8c715c1782 (Apache-2.0), in float32 on a
CPU with torch 2.13.0. Its parameters, position tables and biases included, and the 128^3 image were filled by the
formulas of ``formula.py``; none of its code is here. It was run with ``net.eval()``, and for the nine maps of training
with ``is_training = True``; deep supervision comes from 1/2, 1/4, 1/8 and 1/16 of the size.

At full precision and over all voxels the largest difference was 5.6e-5 for the 15 masks and the batch, and 4.3e-5 for
the nine maps; the most probable class differed at 186 of 54 525 952 voxels, where the two best lie within 3e-5.
"""

from __future__ import annotations

from medmap_components.networks import MMFormer
from medmap_components.networks.mmformer_weights import load_published_state, published_key_map
from tests.networks import formula
from tests.networks.parity import PublishedParity


class TestMMFormer(PublishedParity):
    file = "mmformer_parity.npz"
    size = 128
    scales = (2, 4, 8, 16)

    @classmethod
    def build(cls):
        return MMFormer(token_layout="published", dropout_rate=0.0)

    @classmethod
    def state(cls, network):
        return formula.published_state(network, published_key_map(), raised=1)

    @classmethod
    def load(cls, network, state):
        load_published_state(network, state)
