"""The published search, voxel by voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.inferers.fields import run, signed_ball


@pytest.mark.parametrize("name", ["shell_bar", "ball", "empty", "full"])
@pytest.mark.parametrize(("published", "prior"), [("standard", "none"), ("optimized", "restrict")])
def test_published_search_is_reproduced(golden_dir: Path, name: str, published: str, prior: str) -> None:
    golden = np.load(golden_dir / "golden_mise.npz")
    shape = tuple(golden["resolution"])
    voxels = int(np.prod(shape))

    def unpack(key: str, *leading: int) -> np.ndarray:
        bits = np.unpackbits(golden[f"{name}_{key}"], count=voxels * int(np.prod(leading)))
        return bits.reshape(*leading, *shape).astype(bool)

    field = torch.from_numpy(unpack("field"))[None, None] * 10.0 - 5.0
    segmentation = torch.from_numpy(golden["seg"]).double().logit()
    result, network, inferer = run(field, segmentation, mode="published", prior=prior)

    counts = golden[f"{name}_{published}_counts"].tolist()
    assert list(inferer.stats.queries_per_stage.values()) == counts
    points, start = torch.cat(network.calls).numpy(), 0
    for expected, count in zip(unpack(f"{published}_eval", 3), counts, strict=True):
        evaluated = np.zeros(shape, dtype=bool)
        evaluated[tuple(points[start : start + count].T)] = True
        np.testing.assert_array_equal(evaluated, expected)
        start += count
    np.testing.assert_array_equal((result > 0.5)[0, 0].numpy(), unpack(f"{published}_grid"))


@pytest.mark.parametrize("prior", ["none", "restrict"])
def test_published_search_takes_any_size(prior: str) -> None:
    field = signed_ball((23, 18, 5), (12, 9, 2), 7)
    result, *_ = run(field, torch.full((1, 1, 2, 2, 1), 3.0), mode="published", prior=prior)
    assert torch.equal(result > 0.5, field > 0)
