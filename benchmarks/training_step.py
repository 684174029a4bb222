"""Where patches are gathered: on the device from the image, or in the loader as the published code does.

Measures what a loader item costs, how many bytes a step moves to the device, and how long the step takes, for the
published set-up (256x256x160, 2^14 points an item) and for this project's own (160x192x160).
"""

import argparse
from collections.abc import Callable

import torch
from _report import median_seconds, report

from custom_nets.losses import OccupancyLoss
from custom_nets.networks import OSSNet
from custom_nets.networks.ossnet.network import resize_to_grid

PUBLISHED_SIZE = (256, 256, 160)
OWN_SIZE = (160, 192, 160)


def draw_points(batch: int, points: int, size: tuple[int, ...]) -> torch.Tensor:
    return torch.stack([torch.randint(0, side, (batch, points)) for side in size], dim=-1)


def num_bytes(tensors: tuple[torch.Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def train(net: OSSNet, forward: Callable[[], tuple], labels: torch.Tensor) -> None:
    """Forward and backward; the optimizer's own step is the same for all."""
    logits, auxiliary = forward()
    target = None if auxiliary is None else torch.zeros_like(auxiliary)
    net.zero_grad()
    OccupancyLoss()((logits, auxiliary), (labels, target)).backward()


def measure(variant: str, batch: int, points: int, repeats: int) -> list[dict]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    net = OSSNet.published(variant).to(device)
    own = OSSNet(variant, num_regions=1, grid_size=(80, 96, 80)).to(device)
    image = torch.randn(1, 4, *PUBLISHED_SIZE)
    crop = torch.randn(1, 4, *OWN_SIZE)
    positions, own_positions = draw_points(batch, points, PUBLISHED_SIZE), draw_points(batch, points, OWN_SIZE)
    labels = torch.randint(0, 2, (batch, points, 1)).float().to(device)

    def loader_item() -> tuple[torch.Tensor, ...]:
        """One item with its patches: the encoder's volume, coordinates and patches."""
        return resize_to_grid(image, net.grid_size), positions[:1].float(), net.gather_patches(image, positions[:1])

    def batch_of(single: torch.Tensor) -> torch.Tensor:
        return single.expand(batch, *single.shape[1:]).to(device)

    volume, coordinates, patches = (batch_of(part) for part in loader_item())
    whole, cropped = batch_of(image), batch_of(crop)
    steps = {
        "patches in the loader": lambda: train(net, lambda: decode_patches(net, volume, coordinates, patches), labels),
        "on the device, padded, fp32": lambda: train(net, lambda: net(whole, positions.to(device)), labels),
        "on the device, cropped to the brain, fp16": lambda: train(
            own, lambda: own(cropped, own_positions.to(device)), labels
        ),
    }
    seconds = median_seconds(steps, repeats)
    item_seconds = median_seconds({"item": loader_item}, 3)["item"]
    per_batch = {
        "patches in the loader": batch * num_bytes(loader_item()),
        "on the device, padded, fp32": batch * num_bytes((image, positions[:1])),
        "on the device, cropped to the brain, fp16": batch * num_bytes((crop.half(), own_positions[:1])),
    }
    baseline = "patches in the loader"
    return [
        {
            "method": name,
            "MB to the device a step": per_batch[name] / 1e6,
            "bytes, ratio": per_batch[name] / per_batch[baseline],
            "gathering an item in the loader, s": item_seconds if name == baseline else 0.0,
            "step, s": seconds[name],
            "step, ratio": seconds[name] / seconds[baseline],
        }
        for name in steps
    ]


def decode_patches(
    net: OSSNet, volume: torch.Tensor, coordinates: torch.Tensor, patches: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    latent = net.encoder(volume)
    return net.decoder(latent, coordinates, patches), latent.segmentation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["c", "d"])
    parser.add_argument("--batch", type=int, default=1, help="8 as published (needs some 20 GB)")
    parser.add_argument("--points", type=int, default=2**14)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for variant in options.variants:
        rows = measure(variant, options.batch, options.points, options.repeats)
        title = f"OSS-Net {variant.upper()}, forward + backward, batch {options.batch} x {options.points:,} points"
        report(f"training_step_{variant}", title, rows, "MB to the device a step")


if __name__ == "__main__":
    main()
