"""A KITTI-sized scoring run, PSNR, SSIM, MS-SSIM and LPIPS (random AlexNet), against the published loop; tOF with kept flow.

The published loop scores frame by frame at batch 1, with pytorch-msssim and lpips, every target anew, and casts prediction and
target to 8 bits. Ours is what pipeline.score does with a window. Windows overlap, as KITTI's do: a target is one of five
windows.
"""

from __future__ import annotations

from typing import Any

from bench.common import Row, interleave, peak_of

HEIGHT, WIDTH, WINDOWS, HORIZON = 256, 832, 16, 5
ROUNDS = 2


def run() -> list[Row]:
    import cv2
    import numpy as np
    import torch
    import torchvision

    from pipeline import weights

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    trunk = torchvision.models.alexnet(weights=None).state_dict()
    weights.load = lambda name, **_: trunk  # type: ignore[assignment]
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.random((HEIGHT, WIDTH + 4 * (WINDOWS + HORIZON), 3), np.float32), (0, 0), 2)
    wide = (255 * (wide - wide.min()) / (wide.max() - wide.min())).astype(np.uint8)
    clip = np.stack([wide[:, 4 * t : 4 * t + WIDTH] for t in range(WINDOWS + HORIZON - 1)])
    noisy = np.clip(clip.astype(np.float32) + rng.normal(0, 4, clip.shape).astype(np.float32), 0, 255)
    predictions = (noisy * 257).astype(np.uint16)  # as stores have them
    return [scoring(clip, predictions), tof(clip, predictions)]


def scoring(clip: Any, predictions: Any) -> Row:
    import lpips
    import numpy as np
    import torch
    from pytorch_msssim import ms_ssim, ssim

    from pipeline import params, weights
    from pipeline.sources.clips import unit

    registry = params.registry("metrics")
    asked: dict[str, Any] = {"psnr": {}, "ssim": {}, "ms_ssim": {}, "lpips": {"net": "alex", "colour": "bgr"}}
    fresh = [  # every run has its own, which know no target yet
        [registry[kind].build(registry[kind].Params(kind=kind, **rest), "cpu") for kind, rest in asked.items()]
        for _ in range(ROUNDS + 1)
    ]
    package = lpips.LPIPS(pretrained=True, pnet_rand=True, net="alex", verbose=False).eval()  # the heads alone
    trunk = weights.load("alexnet")
    package.net.load_state_dict({k: trunk[f"features.{k.partition('.')[2]}"] for k in package.net.state_dict()})
    values: dict[str, Any] = {}

    def ours() -> None:
        functions = fresh.pop()
        found = []
        for start in range(WINDOWS):
            pair = [unit(x[start : start + HORIZON]) for x in (predictions, clip)]
            found.append([function(*pair).mean() for function in functions])
        values["ours"] = np.mean(found, axis=0)

    def published() -> None:
        found = []
        for start in range(WINDOWS):
            for step in range(HORIZON):
                x, y = (
                    torch.from_numpy(i[start + step].astype(np.float32)).permute(2, 0, 1).flip(0)[None] / most
                    for i, most in ((predictions, 65535), (clip, 255))
                )
                with torch.no_grad():
                    row = [-10 * torch.log10(((x - y) ** 2).mean())]
                    row += [f(x, y, data_range=1.0, size_average=False) for f in (ssim, ms_ssim)]
                    row.append(package(2 * x - 1, 2 * y - 1))
                for image in (x, y):
                    (image * 255).byte().numpy()
                found.append([float(value) for value in row])
        values["published"] = np.mean(found, axis=0)

    memory = [peak_of(action) for action in (published, ours)]
    slow, quick = interleave(ROUNDS, published, ours)
    apart = np.abs(values["ours"] - values["published"]).max()
    assert apart < 1e-3, values
    frames = WINDOWS * HORIZON
    return Row(
        "KITTI-sized scoring: PSNR, SSIM, MS-SSIM, LPIPS", "published loop, batch 1", slow / quick, 3,
        f"{frames} frames of {WIDTH}x{HEIGHT}, one thread, {1000 * slow / frames:.0f} against {1000 * quick / frames:.0f} ms a "
        f"frame, values apart by {apart:.0e}, peak {memory[0]:.0f} MiB against {memory[1]:.0f}",
    )  # fmt: skip


def tof(clip: Any, predictions: Any) -> Row:
    import tempfile
    from pathlib import Path

    from pipeline import params
    from pipeline.metrics import cache, temporal
    from pipeline.sources.clips import unit

    module = params.registry("metrics")["tof"]
    function = module.build(module.Params(kind="tof"), "cpu")
    predicted, true = unit(predictions), unit(clip)
    region = (slice(None), slice(None))
    pairs = range(len(clip) - 1)

    with tempfile.TemporaryDirectory() as folder:
        cache.ROOT = Path(folder)
        kept = temporal.kept_motion("bench", len(clip), lambda: clip)

        def without() -> None:
            for i in pairs:
                pair = temporal.eight_bits(true[i : i + 2])
                function(predicted[i : i + 2], true[i : i + 2], region, lambda pair=pair: temporal.motion(*pair))

        def cached() -> None:
            for i in pairs:
                function(predicted[i : i + 2], true[i : i + 2], region, lambda i=i: kept[i])

        memory = [peak_of(action) for action in (without, cached)]
        slow, quick = interleave(5, without, cached)
    return Row(
        "tOF, the truth's flow kept", "both flows estimated", slow / quick, 1.8,
        f"{len(pairs)} pairs of {WIDTH}x{HEIGHT}, one thread, {1000 * slow / len(pairs):.0f} against "
        f"{1000 * quick / len(pairs):.0f} ms a pair, peak {memory[0]:.0f} MiB against {memory[1]:.0f}",
    )  # fmt: skip
