"""SSIM and MS-SSIM of one frame pair, against pytorch-msssim at batch 1."""

from __future__ import annotations

from bench.common import Row, interleave


def run() -> list[Row]:
    import cv2
    import numpy as np
    import torch
    from pytorch_msssim import ms_ssim, ssim

    from pipeline import params

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    registry = params.registry("metrics")
    ours = [registry[kind].build(registry[kind].Params(kind=kind), "cpu") for kind in ("ssim", "ms_ssim")]
    rng = np.random.default_rng(0)
    target = cv2.GaussianBlur(rng.random((256, 832, 3), np.float32), (0, 0), 2)
    prediction = np.clip(target + rng.normal(0, 0.02, target.shape).astype(np.float32), 0, 1)
    a, b = prediction[None], target[None]
    a.flags.writeable = b.flags.writeable = False
    x, y = (torch.tensor(t).permute(0, 3, 1, 2).contiguous() for t in (a, b))

    def package() -> None:
        with torch.no_grad():
            ssim(x, y, data_range=1.0, size_average=False)
            ms_ssim(x, y, data_range=1.0, size_average=False)

    def fast() -> None:
        c, d = a.view(), b.view()  # new arrays: nothing is remembered between rounds
        for metric in ours:
            metric(c, d)

    slow, quick = interleave(15, package, fast)
    detail = f"832x256, one thread, {1000 * slow:.0f} against {1000 * quick:.1f} ms"
    return [Row("SSIM + MS-SSIM", "pytorch-msssim, batch 1", slow / quick, 5, detail)]
