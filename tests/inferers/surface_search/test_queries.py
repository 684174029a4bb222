"""Queries, counted, and latents of single items."""

from __future__ import annotations

import pytest
import torch

from custom_nets.inferers.surface_search.queries import item_of
from tests.inferers.fields import FieldLatent, FieldNetwork, build_inferer, image_for, random_field, run, signed_ball


@pytest.mark.parametrize("mode", ["surface", "published", "dense"])
def test_stats_count_the_points_given_to_decode(mode: str) -> None:
    field = random_field(8, (19, 22, 13), 2.0, batch=2)
    _, network, inferer = run(field, mode=mode)
    stats = inferer.stats
    assert stats.queries == sum(map(len, network.calls)) == sum(stats.queries_per_stage.values())
    assert stats.voxels == 2 * 19 * 22 * 13
    assert stats.fraction == stats.queries / stats.voxels
    assert min(stats.encode_seconds, stats.decode_seconds, stats.search_seconds) > 0


def test_stats_start_anew_with_each_call() -> None:
    field = signed_ball((16, 16, 16), (8, 8, 8), 5)
    inferer = build_inferer()
    counts = []
    for _ in range(2):
        inferer(image_for(field), FieldNetwork(field))
        counts.append(inferer.stats.queries)
    assert counts[0] == counts[1]


def test_item_of_slices_every_tensor_of_a_nested_latent() -> None:
    latent = {"a": [torch.arange(3), None], "b": FieldLatent(torch.eye(3), None), "c": (torch.arange(3), "name")}
    item = item_of(latent, 1)
    assert item["a"] == [torch.tensor([1]), None]
    assert isinstance(item["b"], FieldLatent)
    assert item["b"].field.tolist() == [[0, 1, 0]]
    assert item["c"] == (torch.tensor([1]), "name")
