"""Networks: PyTorch and MONAI alone."""

from custom_nets.networks.modality_dropout import ModalityDropout, accepts_missing_modalities
from custom_nets.networks.nvnet.network import NvNet, NvNetOutput
from custom_nets.networks.ossnet.encoder import Latent
from custom_nets.networks.ossnet.network import OSSNet
from custom_nets.networks.pade.activation import PadeActivation
from custom_nets.networks.pyramid.network import PyramidLatent, PyramidOSSNet

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
