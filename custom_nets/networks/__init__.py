"""Networks: PyTorch and MONAI alone."""

from custom_nets.networks.ossnet import OSSNet
from custom_nets.networks.ossnet_encoder import Latent
from custom_nets.networks.ossnet_pyramid import PyramidLatent, PyramidOSSNet
from custom_nets.networks.pade import PadeActivation

__all__ = ["Latent", "OSSNet", "PadeActivation", "PyramidLatent", "PyramidOSSNet"]
