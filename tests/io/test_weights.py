"""Reading and loading weights."""

import io
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn

from custom_nets.errors import InputError
from custom_nets.io.weights import describe_misfit, load_weights, read_state_dict, save_tensors


def save(content, path):
    torch.save(content, path)
    return path


def error_of(function, *arguments) -> str:
    with pytest.raises(InputError) as raised:
        function(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_plain_state_dict_is_read_as_it_was_saved(tmp_path):
    state = nn.Linear(2, 3).state_dict()
    read = read_state_dict(save(state, tmp_path / "model.pt"))
    assert list(read) == ["weight", "bias"]
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_versions_of_the_layers_survive_reading(tmp_path):
    read = read_state_dict(save(nn.BatchNorm3d(2).state_dict(), tmp_path / "model.pt"))
    assert read._metadata[""]["version"] == 2


@pytest.mark.parametrize("entry", ["network", "model"])
def test_of_a_whole_state_the_network_is_read(tmp_path, entry):
    net = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(net.parameters())
    whole = {"optimizer": optimizer.state_dict(), entry: net.state_dict(), "trainer": {"epoch": 3}}
    assert list(read_state_dict(save(whole, tmp_path / "checkpoint_last.pt"))) == ["weight", "bias"]


def test_a_layer_called_network_is_no_whole_state(tmp_path):
    net = nn.ModuleDict({"network": nn.Linear(1, 1), "model": nn.Linear(1, 1)})
    assert len(read_state_dict(save(net.state_dict(), tmp_path / "model.pt"))) == 4


def test_an_absent_file_is_named(tmp_path):
    assert f"{tmp_path}/model.pt: there is no such file" in error_of(read_state_dict, tmp_path / "model.pt")


def test_a_folder_is_no_file(tmp_path):
    assert "there is no such file" in error_of(read_state_dict, tmp_path)


def legacy_pickle() -> bytes:
    return pickle.dumps({"weight": [1.0]})


def cut_short() -> bytes:
    file = io.BytesIO()
    torch.save(nn.Linear(20, 20).state_dict(), file)
    return file.getvalue()[:-500]


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02\xff", legacy_pickle(), cut_short()])
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    assert "model.pt: cannot be read as a file of plain tensors" in error_of(read_state_dict, tmp_path / "model.pt")


def test_code_in_a_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    assert "holds code, which is never run" in error_of(read_state_dict, save({"a": Trap()}, tmp_path / "model.pt"))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([torch.zeros(1)], "a list"),
        ({}, "an empty dict"),
        ({"optimizer": {}, "epoch": 3}, "a dict of optimizer, epoch"),
        ({1: torch.zeros(1)}, "a dict of 1"),
    ],
)
def test_what_is_no_state_dict_is_described(tmp_path, content, found):
    message = error_of(read_state_dict, save(content, tmp_path / "model.pt"))
    assert f"holds no plain state dict (names to tensors) but {found};" in message


def test_weights_are_loaded(tmp_path):
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    load_weights(target, save(source.state_dict(), tmp_path / "model.pt"))
    assert torch.equal(source.weight, target.weight)


def test_a_wrapped_network_is_looked_through(tmp_path):
    source, target = nn.Linear(2, 3), nn.DataParallel(nn.Linear(2, 3))
    load_weights(target, save(source.state_dict(), tmp_path / "model.pt"))
    assert torch.equal(source.weight, target.module.weight)


def test_a_layer_called_module_is_no_wrapper(tmp_path):
    source, target = nn.ModuleDict({"module": nn.Linear(1, 1)}), nn.ModuleDict({"module": nn.Linear(1, 1)})
    load_weights(target, save(source.state_dict(), tmp_path / "model.pt"))
    assert torch.equal(source["module"].weight, target["module"].weight)


def test_what_does_not_fit_is_named_with_the_file_and_the_advice(tmp_path):
    net = nn.Sequential(OrderedDict(first=nn.Linear(2, 3), last=nn.Linear(3, 1)))
    state = {"first.weight": torch.zeros(5, 2), "first.bias": torch.zeros(3), "last.bias": torch.zeros(1)}
    path = save({**state, "other": torch.zeros(1)}, tmp_path / "model.pt")
    assert error_of(load_weights, net, path, "ask Ann") == (
        f"{path}: does not fit the network: 1 missing: last.weight; 1 unexpected: other; "
        "1 wrongly shaped: first.weight ((5, 2), expected (3, 2)); ask Ann"
    )


def test_only_the_first_names_are_listed():
    assert describe_misfit([f"layer{index}" for index in range(9)], [], []) == (
        "9 missing: layer0, layer1, layer2, layer3, layer4, ..."
    )


def test_what_the_network_leaves_out_itself_is_not_unexpected(tmp_path):
    net = nn.Linear(2, 3)

    def leave_out(_module, state, *_):
        state.pop("branch", None)

    net.register_load_state_dict_pre_hook(leave_out)
    path = save({"weight": torch.ones(3, 2), "bias": torch.ones(3), "branch": torch.zeros(1)}, tmp_path / "model.pt")
    load_weights(net, path)
    assert (net.weight == 1).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    net = nn.Linear(2, 3)
    net.bias.data[1] = value
    path = save(net.state_dict(), tmp_path / "model.pt")
    assert "model.pt: weights are not finite (NaN or infinite) in 1 tensors: bias" in error_of(read_state_dict, path)


def test_a_changed_byte_among_the_numbers_is_damage(tmp_path):
    """PyTorch itself reads such a file without a word."""
    path = save({"weight": torch.full((64,), 3.0)}, tmp_path / "model.pt")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\0\0\x40\x40" * 8, b"\0\0\x41\x40" * 8))
    assert torch.load(path, weights_only=True)["weight"].max() > 3
    assert "model.pt: cannot be read as a file of plain tensors" in error_of(read_state_dict, path)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("one.pt", "other.pt"):
        save_tensors(tmp_path / name, {"weight": torch.ones(3)})
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()
