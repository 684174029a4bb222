"""MONAI's own commands on the bundles: the network's format is verified, and it is exported."""

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ckpt_export, onnx_export, verify_net_in_out
from monai.handlers import TrtHandler
from monai.networks.utils import convert_to_onnx

from tests.bundles.bundle import Bundle

TINY = {
    "nvnet_brats": {"init_filters": 8, "crop_size": [16, 16, 16]},
    "ossnet_brats": {"channels": [8, 8], "hidden_features": 16},
    "ossnet_lits": {"channels": [8, 8], "hidden_features": 16},
}
every_bundle = pytest.mark.parametrize("name", list(TINY))


def files_of(name, *configs):
    bundle = Bundle(name)
    return {"meta_file": bundle.config("metadata")[0], "config_file": bundle.config("inference", *configs)}


@every_bundle
def test_the_network_takes_and_gives_what_the_metadata_says(name):
    verify_net_in_out("network_def", device="cpu", **files_of(name))


@pytest.mark.parametrize("name", ["ossnet_brats", "ossnet_lits"])
@pytest.mark.parametrize("variant", ["onet", "a", "b", "c", "d"])
def test_the_variants_take_and_give_what_the_metadata_says(name, variant):
    keys = {"variant": variant, "grid_size": [32, 32, 32]}
    verify_net_in_out("network_def", device="cpu", **files_of(name, "variant"), **keys)


@pytest.fixture
def model(name, tmp_path):
    """A network of the bundle, and the file of its weights."""
    net = Bundle(name).parse("inference", **TINY[name]).get_parsed_content("network_def").eval()
    torch.save(net.state_dict(), tmp_path / "model.pt")
    return net, str(tmp_path / "model.pt")


@every_bundle
@torch.no_grad()
def test_ckpt_export_gives_the_network_for_images_of_any_size(name, model, tmp_path):
    net, weights = model
    file = str(tmp_path / "model.ts")
    ckpt_export("network_def", filepath=file, ckpt_file=weights, **files_of(name), **TINY[name])
    exported = torch.jit.load(file)
    for size in ((16, 16, 16), (24, 8, 16)):
        image = torch.rand(1, net.in_channels, *size)
        torch.testing.assert_close(exported(image), net(image), atol=1e-5, rtol=0)


@pytest.mark.slow
@every_bundle
@torch.no_grad()
def test_onnx_export_gives_the_network(name, model, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    net, weights = model
    file = str(tmp_path / "model.onnx")
    shape = [1, net.in_channels, 16, 16, 24]
    onnx_export("network_def", filepath=file, ckpt_file=weights, input_shape=shape, **files_of(name), **TINY[name])
    image = torch.rand(shape)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    result = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(result), net(image), atol=1e-4, rtol=0)


def trt_config():
    return Bundle("nvnet_brats").parse("inference", "inference_trt", **TINY["nvnet_brats"], device="cpu")


def test_tensorrt_is_compiled_after_the_weights_are_loaded():
    parser = trt_config()
    handlers = parser.get_parsed_content("handlers")
    names = [type(handler).__name__ for handler in handlers]
    assert names.index("LoadWeights") < names.index("TrtHandler")
    handler = next(handler for handler in handlers if isinstance(handler, TrtHandler))
    assert handler.model is parser.get_parsed_content("network")
    assert handler.base_path == parser.get_parsed_content("load_model")


def test_tensorrt_is_told_of_every_size_that_a_window_may_have():
    parser = trt_config()
    (profile,) = parser.get_parsed_content("trt_args")["input_profiles"]
    smallest, usual, largest = profile["x"]
    inferer = parser.get_parsed_content("inferer").inferer
    assert inferer.mode == "windows"
    assert usual == largest == [inferer.sw_batch_size, 4, *inferer.roi_size]
    assert smallest == [inferer.sw_batch_size, 4, *[parser.get_parsed_content("network_def").divisor] * 3]


@pytest.mark.slow
@torch.no_grad()
def test_what_tensorrt_is_given_is_the_network(tmp_path):
    """The step before TensorRT, as MONAI's compiler takes it: an ONNX file whose sides are open."""
    runtime = pytest.importorskip("onnxruntime")
    parser = trt_config()
    net = parser.get_parsed_content("network_def").eval()
    options = parser.get_parsed_content("trt_args")["export_args"]
    file, image = str(tmp_path / "net.onnx"), torch.rand(1, 4, 16, 24, 16)
    axes = {"x": [2, 3, 4]}
    convert_to_onnx(net, {"x": image}, filename=file, input_names=["x"], output_names=[], dynamic_axes=axes, **options)
    other = torch.rand(1, 4, 8, 16, 24)
    result = runtime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": other.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(result), net(other), atol=1e-4, rtol=0)


@pytest.mark.gpu
@torch.no_grad()
def test_tensorrt_gives_nearly_what_the_network_gives(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    pytest.importorskip("tensorrt")
    pytest.importorskip("polygraphy")
    parser = trt_config()
    parser.update({"device": "cuda", "load_model": str(tmp_path / "model.pt")})
    net = parser.get_parsed_content("network").eval()
    image = torch.rand(1, 4, 16, 16, 16, device="cuda")
    expected = net(image).clone()
    engine = Engine(lambda engine, batch: net(batch))
    handlers = parser.get_parsed_content("handlers")
    next(handler for handler in handlers if isinstance(handler, TrtHandler)).attach(engine)
    result = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: result.append(engine.state.output))
    engine.run([image])
    assert list(tmp_path.glob("*.plan"))
    torch.testing.assert_close(result[0].float(), expected, atol=0.05, rtol=0.05)
