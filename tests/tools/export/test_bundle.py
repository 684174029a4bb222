"""Export of the bundles' networks: the files give what the networks give, or are not kept."""

import sys

import pytest
import torch
from torch import nn

from custom_nets.errors import InputError
from custom_nets.networks import OSSNet
from custom_nets.tools import export_bundle, format_exports
from custom_nets.tools.cli import main
from custom_nets.tools.export.bundle import export_part, fill_with_random_numbers
from custom_nets.tools.export.parts import Part, export_parts
from tests.conftest import REPOSITORY

# Networks as small as the configs allow.
TINY = {
    "nvnet_brats": {"init_filters": 8, "crop_size": [16, 16, 16]},
    "ossnet_brats": {"channels": [8, 8], "hidden_features": 16},
    "ossnet_lits": {"channels": [16, 16], "hidden_features": 16},
}
SLOW_ONNX = dict.fromkeys(("ossnet_brats", "ossnet_lits"), pytest.mark.slow)
VARIANT = {"grid_size": [48, 48, 48], "hidden_features": 16}
SHAPE = (16, 24, 16)


def export(bundle, folder, file_format, configs=(), keys=None, **options):
    keys = TINY[bundle] if keys is None else keys
    options = {"shape": SHAPE, "untrained": True, **options}
    return export_bundle(REPOSITORY / "bundles" / bundle, folder, file_format, configs, keys=keys, **options)


@pytest.mark.parametrize("bundle", [pytest.param(name, marks=SLOW_ONNX.get(name, ())) for name in TINY])
def test_onnx_of_every_bundle_equals_its_network_at_two_sizes(bundle, tmp_path):
    pytest.importorskip("onnxruntime")
    files = export(bundle, tmp_path, "onnx")
    names = ["network.onnx"] if bundle == "nvnet_brats" else ["encoder.onnx", "decoder.onnx", "network.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert [file.path.name for file in files] == names
    assert all(file.difference <= 1e-4 and len(set(file.shapes)) == 2 for file in files)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["encoder", "decoder", "network"])
def test_onnx_of_variant_c_equals_its_network_at_two_sizes(part, tmp_path):
    pytest.importorskip("onnxruntime")
    assert export_variant("c", part, tmp_path, dynamic=True).difference <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["onet", "d"])
def test_onnx_decoders_of_other_variants_equal_theirs(variant, tmp_path):
    pytest.importorskip("onnxruntime")
    file = export_variant(variant, "decoder", tmp_path, dynamic=False)
    assert file.difference <= 1e-4
    assert file.inputs["image"] == [1, 4, *SHAPE]


def export_variant(variant, part, folder, dynamic):
    net = OSSNet(variant, 4, 2, grid_size=(16, 16, 16), encoder_channels=(8, 8), hidden_features=8).eval()
    fill_with_random_numbers(net)
    chosen = next(p for p in export_parts(net, 4, 1) if p.name == part)
    return export_part(chosen, folder, "onnx", SHAPE, dynamic)


@pytest.mark.parametrize("bundle", list(TINY))
def test_torchscript_of_every_bundle_equals_its_network(bundle, tmp_path):
    files = export(bundle, tmp_path, "torchscript")
    assert all(file.path.suffix == ".ts" and file.difference <= 1e-4 for file in files)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["onet", "b", "c", "d"])
def test_torchscript_of_variants_equals_them(variant, tmp_path):
    files = export("ossnet_brats", tmp_path, "torchscript", ["variant"], {**VARIANT, "variant": variant})
    assert len(files) == 3
    assert all(file.difference <= 1e-4 for file in files)


def test_the_weights_of_the_model_are_exported(tmp_path):
    parser_keys = TINY["nvnet_brats"]
    export("nvnet_brats", tmp_path, "torchscript")
    traced = torch.jit.load(tmp_path / "network.ts")
    state = {name.removeprefix("network."): tensor for name, tensor in traced.state_dict().items()}
    torch.save(state, tmp_path / "model.pt")
    keys = {**parser_keys, "load_model": str(tmp_path / "model.pt")}
    export("nvnet_brats", tmp_path / "again", "torchscript", keys=keys, untrained=False)
    image = torch.rand(1, 4, *SHAPE)
    torch.testing.assert_close(torch.jit.load(tmp_path / "again" / "network.ts")(image), traced(image))


class _Restless(nn.Module):
    """Never gives the same twice."""

    def forward(self, image):
        return image + torch.rand_like(image)


def test_a_file_that_differs_is_refused_and_not_kept(tmp_path):
    part = Part("network", _Restless(), lambda size, batch: {"image": torch.zeros(batch, 1, *size)}, ["logits"], {})
    (tmp_path / "network.ts").write_text("an older file")
    with pytest.raises(InputError, match="differs from the network's by"):
        export_part(part, tmp_path, "torchscript", SHAPE)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an older file"]


def test_the_table_names_inputs_and_their_axes(tmp_path):
    table = format_exports(export("ossnet_lits", tmp_path, "torchscript"))
    assert "image [B, 1, H, W, D]; spacing [B, 3]" in table
    assert "features_1 [B, h1, w1, d1, 16]" in table
    assert "points [B, N, 3]" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nvnet_brats", "--format", "caffe"], "expected onnx or torchscript"),
        (["nvnet_brats", "--format", "torchscript", "--load_model", "no.pt"], "no.pt: there is no such file"),
        (
            ["nvnet_brats", "--format", "torchscript", "--untrained", "true", "--shape", "16", "20", "16"],
            "multiples of 8",
        ),
    ],
)
def test_what_cannot_be_exported_is_one_line(arguments, message, monkeypatch, capsys, tmp_path):
    bundle, *others = arguments
    command = ["custom-nets", "export", str(REPOSITORY / "bundles" / bundle), "--output_dir", str(tmp_path), *others]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="onnxruntime; install the packages of the extra"):
        export("nvnet_brats", tmp_path, "onnx")


def test_the_command_prints_its_table(monkeypatch, capsys, tmp_path):
    bundle = REPOSITORY / "bundles" / "nvnet_brats"
    keys = ["--init_filters", "8", "--untrained", "true", "--shape", "16", "16", "16"]
    command = ["custom-nets", "export", str(bundle), "--output_dir", str(tmp_path), "--format", "torchscript", *keys]
    monkeypatch.setattr(sys, "argv", command)
    main()
    assert "| network.ts | image [B, 4, H, W, D] |" in capsys.readouterr().out
