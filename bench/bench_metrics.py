"""SSIM and MS-SSIM of one frame pair, against pytorch-msssim and torchmetrics at batch 1."""

from __future__ import annotations

from bench.common import Row, interleave, peak_mib


def run() -> list[Row]:
    import cv2
    import numpy as np
    import torch
    from pytorch_msssim import ms_ssim, ssim
    from torchmetrics.functional.image import structural_similarity_index_measure

    from pipeline import params

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    registry = params.registry("metrics")
    ours = {kind: registry[kind].build(registry[kind].Params(kind=kind), "cpu") for kind in ("ssim", "ms_ssim")}
    rng = np.random.default_rng(0)
    target = cv2.GaussianBlur(rng.random((256, 832, 3), np.float32), (0, 0), 2)
    prediction = np.clip(target + rng.normal(0, 0.02, target.shape).astype(np.float32), 0, 1)
    a, b = prediction[None], target[None]
    a.flags.writeable = b.flags.writeable = False
    x, y = (torch.tensor(t).permute(0, 3, 1, 2).contiguous() for t in (a, b))

    def package(*functions) -> None:
        with torch.no_grad():
            for function in functions:
                function(x, y, data_range=1.0, size_average=False)

    def torchmetrics() -> None:
        with torch.no_grad():
            structural_similarity_index_measure(x, y, data_range=1.0)

    def fast(*kinds: str) -> None:
        c, d = a.view(), b.view()  # new arrays: nothing is remembered between rounds
        for kind in kinds:
            ours[kind](c, d)

    times = interleave(
        31, lambda: fast("ssim"), lambda: package(ssim), torchmetrics,
        lambda: fast("ssim", "ms_ssim"), lambda: package(ssim, ms_ssim),
    )  # fmt: skip
    quick, slow, slower, quick_both, slow_both = times

    def detail(slow: float, quick: float) -> str:
        return f"832x256, one thread, {1000 * slow:.0f} against {1000 * quick:.1f} ms; peak of the process {peak_mib():.0f} MiB"

    return [
        Row("SSIM", "pytorch-msssim, batch 1", slow / quick, 5, detail(slow, quick)),
        Row("SSIM", "torchmetrics, batch 1", slower / quick, 8, detail(slower, quick)),
        Row("SSIM + MS-SSIM", "pytorch-msssim, batch 1", slow_both / quick_both, 5, detail(slow_both, quick_both)),
    ]
