"""DMVFN inference beside the published way, re-created here, and batches beside a loop over batch 1.

Published: planes one after another in memory, block inputs joined anew, each frame warped by itself, a prediction blended after
every block, the router's convolutions in full; batch 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.common import Row, interleave

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ROUNDS = 6


def run() -> list[Row]:
    import numpy as np
    import torch

    from pipeline import params

    model = params.load().models["dmvfn"]
    torch.manual_seed(0)
    network = params.registry("models")[model.kind].build(model).eval()
    rows = []
    with torch.no_grad():
        for height, width in ((192, 320), (256, 832)):
            frames = torch.from_numpy(np.random.default_rng(0).random((8, 2, 3, height, width), np.float32))
            rows += [_beside_published(network, frames, threads) for threads in (1, 2)]
            rows.append(_batched(network, frames))
    return rows


def _beside_published(network: Any, frames: Tensor, threads: int) -> Row:
    """Return the row of frames predicted one by one, with the same blocks on both sides, as the router draws them."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    pairs = frames.flip(2).flatten(1, 2).split(1)
    draws = np.random.default_rng(0).random((len(pairs), 1, 9))
    gates = [network.choose(pair, draw) for pair, draw in zip(pairs, draws, strict=True)]

    def published() -> list[Tensor]:
        return [_published(network, pair, gate) for pair, gate in zip(pairs, gates, strict=True)]

    def ours() -> list[Tensor]:
        return [network.next_frame(pair, network.choose(pair, draw)) for pair, draw in zip(pairs, draws, strict=True)]

    apart = max(float((a - b).abs().max()) for a, b in zip(published(), ours(), strict=True))
    slow, fast = interleave(ROUNDS, published, ours)
    height, width = frames.shape[-2:]
    detail = (
        f"{np.mean([gate.sum() for gate in gates]):.1f} blocks a frame, {1000 * slow / len(pairs):.0f} against "
        f"{1000 * fast / len(pairs):.0f} ms a frame; outputs differ by {apart:.0e}"
    )
    return Row(
        f"DMVFN inference {width}x{height}, threads: {threads}", "published code re-created", slow / fast, 2, detail
    )


def _batched(network: Any, frames: Tensor) -> Row:
    """Return the row of eight frames at once against one by one."""
    import torch

    torch.set_num_threads(2)

    def loop() -> None:
        for i in range(len(frames)):
            network.predict(frames[i : i + 1], 1, seeds=[i], flow=None)

    slow, fast = interleave(3, loop, lambda: network.predict(frames, 1, seeds=list(range(len(frames))), flow=None))
    height, width = frames.shape[-2:]
    detail = (
        f"batch 8, sampled routing, 2 threads, {1000 * slow / 8:.0f} ms a frame in the loop, {1000 * fast / 8:.0f} ms batched: "
        "compute.batch is 1 on a CPU for frames above 256x256"
    )
    return Row(f"DMVFN inference {width}x{height}, batched", "the same, batch 1", slow / fast, 1, detail, at_most=True)


def _published(network: Any, pair: Tensor, gates: np.ndarray) -> Tensor:
    """Return the frame after a pair (1, 6, H, W), at the cost of the published code; `gates` (1, 9) are the router's."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    network.l1(adaptive_avg_pool2d(network.routing(pair), 1).flatten(1))  # what it draws from
    first, second = pair.split(3, 1)
    flow, mask = pair.new_zeros(1, 4, *pair.shape[2:]), pair.new_zeros(1, 1, *pair.shape[2:])
    warped = frame = [first, second]
    for i, (block, scale) in enumerate(network.blocks()):
        if gates[0, i]:
            step = published_block(block, torch.cat([first, second, *warped, mask], 1), flow, scale)
            flow, mask = flow + step[:, :4], mask + step[:, 4:]
            warped = [published_warp(first, flow[:, :2]), published_warp(second, flow[:, 2:])]
            share = torch.sigmoid(mask)
            frame = [(warped[0] * share + warped[1] * (1 - share)).clamp(0, 1)]
    return frame[0]


def published_block(block: Any, images: Tensor, flow: Tensor, scale: int) -> Tensor:
    import torch
    from torch.nn.functional import interpolate

    coarse, slow = images, flow
    if scale != 1:
        coarse, slow = (
            interpolate(x, scale_factor=1 / scale, mode="bilinear", align_corners=False) for x in (images, flow)
        )
        slow = slow / scale
    motion = block.conv0(torch.cat([coarse, slow], 1))
    motion = block.conv_sq(block.convblock(motion) + motion)
    motion = interpolate(motion, scale_factor=2 * scale, mode="bilinear", align_corners=False)
    return block.lastconv(torch.cat([motion, block.convblock1(block.conv1(torch.cat([images, flow], 1)))], 1))


def published_warp(image: Tensor, flow: Tensor) -> Tensor:
    import torch
    from torch.nn.functional import grid_sample

    height, width = image.shape[2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    unit = torch.cat([flow[:, :1] / ((width - 1) / 2), flow[:, 1:] / ((height - 1) / 2)], 1)
    grid = (torch.stack([x, y])[None] + unit).permute(0, 2, 3, 1)
    return grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)
