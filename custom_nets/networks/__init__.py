"""Networks: PyTorch and MONAI alone."""

from custom_nets.networks.modality_dropout import ModalityDropout, accepts_missing_modalities
from custom_nets.networks.nvnet import NvNet, NvNetOutput
from custom_nets.networks.ossnet import OSSNet
from custom_nets.networks.ossnet_encoder import Latent
from custom_nets.networks.ossnet_pyramid import PyramidLatent, PyramidOSSNet
from custom_nets.networks.pade import PadeActivation

__all__ = [
    "Latent",
    "ModalityDropout",
    "NvNet",
    "NvNetOutput",
    "OSSNet",
    "PadeActivation",
    "PyramidLatent",
    "PyramidOSSNet",
    "accepts_missing_modalities",
]
