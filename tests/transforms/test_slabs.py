import pytest
import torch

from custom_nets.transforms.slabs import split_slabs


@pytest.mark.parametrize("shape", [(2, 5, 1024, 512), (1, 3, 2048, 1024), (3, 7, 4, 6)])
def test_slabs_make_up_the_volume(shape):
    volume = torch.arange(torch.Size(shape).numel()).reshape(shape)
    assert torch.equal(torch.cat(split_slabs(volume), dim=1), volume)


def test_slabs_are_small():
    slabs = split_slabs(torch.zeros(1).expand(2, 100, 512, 512))
    assert {tuple(slab.shape) for slab in slabs} == {(2, 4, 512, 512)}


def test_writing_into_a_slab_writes_into_the_volume():
    volume = torch.zeros(1, 3, 1024, 1024)
    split_slabs(volume)[1].fill_(1)
    assert volume.sum(dim=(0, 2, 3)).tolist() == [0, 2**20, 0]
