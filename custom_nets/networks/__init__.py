"""Networks: PyTorch and MONAI alone."""

from custom_nets.networks.base import OccupancyNetwork
from custom_nets.networks.modality_dropout import ModalityDropout, accepts_missing_modalities
from custom_nets.networks.nvnet.network import NvNet, NvNetOutput, NvNetSettings
from custom_nets.networks.ossnet.encoder import Latent
from custom_nets.networks.ossnet.network import OSSNet, OSSNetSettings
from custom_nets.networks.pade.activation import PadeActivation
from custom_nets.networks.pyramid.network import PyramidLatent, PyramidOSSNet, PyramidSettings

__all__ = [
    "Latent",
    "ModalityDropout",
    "NvNet",
    "NvNetOutput",
    "NvNetSettings",
    "OSSNet",
    "OSSNetSettings",
    "OccupancyNetwork",
    "PadeActivation",
    "PyramidLatent",
    "PyramidOSSNet",
    "PyramidSettings",
    "accepts_missing_modalities",
]
