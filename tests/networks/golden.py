"""The recipe of seeded weights and inputs behind the golden numbers (GOLDEN.md)."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from custom_nets.networks.pade.activation import LEAKY_RELU_DENOMINATOR, LEAKY_RELU_NUMERATOR


class Golden:
    """One golden file: arrays by name, the published state dict, and the seeded inputs."""

    def __init__(self, path: Path) -> None:
        self.arrays = dict(np.load(path, allow_pickle=False))
        self.meta: dict[str, Any] = json.loads(str(self.arrays["meta"]))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def published_state_dict(self) -> dict[str, torch.Tensor]:
        keys = [str(key) for key in self["keys"]]
        shapes = [tuple(int(n) for n in str(s).split("x") if n) for s in self["shapes"]]
        return {key: self._weight(key, shape, set(keys)) for key, shape in zip(keys, shapes, strict=True)}

    def _weight(self, key: str, shape: tuple[int, ...], keys: set[str]) -> torch.Tensor:
        def noise(salt: int = 0) -> np.ndarray:
            seed = (zlib.crc32(key.encode("utf-8")) + salt) % 2**31
            return np.random.RandomState(seed).standard_normal(shape)

        parent, _, last = key.rpartition(".")
        if key == "decoder.final_mapping.0.weight":
            value = self.meta["final_scale"] * noise(self.meta["final_salt"])
        elif last == "num_batches_tracked":
            return torch.zeros(shape, dtype=torch.int64)
        elif last == "weight_numerator":
            value = np.array(LEAKY_RELU_NUMERATOR) + 0.01 * noise()
        elif last == "weight_denominator":
            value = np.array(LEAKY_RELU_DENOMINATOR) + 0.01 * noise()
        elif last == "running_mean":
            value = 0.1 * noise()
        elif last == "running_var":
            value = 0.5 + np.abs(noise())
        elif last == "weight" and len(shape) == 1:
            value = 1 + 0.1 * noise()
        elif last == "bias" and f"{parent}.running_mean" in keys:
            value = 0.1 * noise()
        elif key.endswith("linear_gamma.bias"):
            value = 1 + 0.05 * noise()
        elif key in ("decoder.blocks.0.linear_layer_1.weight", "decoder.blocks.0.residual_mapping.weight"):
            value = 0.01 * noise()
        elif key.endswith(("linear_gamma.weight", "linear_beta.weight")):
            value = 0.005 * noise()
        else:
            value = 0.05 * noise()
        return torch.from_numpy(np.asarray(value)).float()

    def inputs(self, batch: int, points: int, seed: int) -> dict[str, torch.Tensor]:
        rs = np.random.RandomState(seed)
        volume_shape = tuple(self.meta["volume_shape"])
        volume = rs.standard_normal((batch, 4, *volume_shape))
        coordinates = np.floor(rs.random_sample((batch, points, 3)) * np.array(self.meta["padded_shape"]))
        patches = rs.standard_normal((batch, points, self.meta["patch_channels"], 7, 7, 7))
        labels = rs.random_sample((batch, points, 1)) < 0.5
        target = rs.random_sample((batch, 1, *(n // 16 for n in volume_shape))) < 0.5
        named = {"volume": volume, "coordinates": coordinates, "patches": patches, "labels": labels, "target": target}
        return {name: torch.from_numpy(np.asarray(array)).float() for name, array in named.items()}
