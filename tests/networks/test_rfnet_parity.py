"""RFNet computes what the published RFNet computes, given the same weights.

The numbers in ``data/rfnet_parity.npz`` (see ``parity.py``) came out of the published network,
https://github.com/dyh127/RFNet at commit 1e475fa5de4ac3f41f8de3d3102bb8b28383c2c4, in float32 on a CPU with
torch 2.13.0. Its parameters, those biases included that ours leaves out, and the 80^3 image were filled by the formulas
of ``formula.py``; none of its code is here. It was run with ``net.eval()``, and for the nine maps of training with
``is_training = True``; deep supervision are its probability maps, of the full size, 1/2, 1/4 and 1/8.

At full precision and over all voxels the largest difference was 3.7e-5 for the 15 masks and the batch, and 1.8e-5 for
the nine maps; the most probable class differed at 32 of 13 312 000 voxels, where the two best lie within 7e-6.
"""

from __future__ import annotations

from medmap_components.networks import RFNet
from medmap_components.networks.rfnet_weights import load_published_state, published_key_map
from tests.networks import formula
from tests.networks.parity import PublishedParity


class TestRFNet(PublishedParity):
    file = "rfnet_parity.npz"
    size = 80
    scales = (1, 2, 4, 8)

    @classmethod
    def build(cls):
        return RFNet()

    @classmethod
    def state(cls, network):
        return formula.published_state(network, published_key_map(), raised=0)

    @classmethod
    def load(cls, network, state):
        load_published_state(network, state)
