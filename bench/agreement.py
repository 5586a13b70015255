"""How far packages and papers are apart on the same images: the numbers of docs/metrics.md.

    python -m bench.agreement PREDICTIONS TRUTH

PREDICTIONS and TRUTH: clips as pipeline.evaluate takes them, of equal sizes above 176 px. Prints each way to compute a metric, its
mean over frames, and its difference from ours. FID is of an Inception with random weights, as a multiple of ours:
what resizing alone changes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import params
from pipeline.metrics import fid, frechet, squared, temporal
from pipeline.metrics.networks import inception
from pipeline.sources.clips import clips, unit


def main() -> None:
    ours, truth = (np.concatenate([unit(c.read()) for c in clips(Path(p)).values()]) for p in sys.argv[1:3])
    for group, rows in (("PSNR", psnrs), ("SSIM", ssims), ("MS-SSIM", ms_ssims), ("FID, random weights, ratio", fids)):
        found = rows(ours, truth)
        first = next(iter(found.values()))
        print(f"\n{group}")
        for name, value in found.items():
            print(f"  {name:58} {value:12.5f} {value - first:+12.5f}")


def own(kind: str, a: np.ndarray, b: np.ndarray, **keys: Any) -> float:
    module = params.registry("metrics")[kind]
    return float(module.build(module.Params(kind=kind, **keys), "cpu")(a, b).mean())


def tensors(*images: np.ndarray) -> list[Any]:
    import torch

    return [torch.from_numpy(np.array(i)).permute(0, 3, 1, 2).contiguous() for i in images]


def psnrs(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    x, y = tensors(a, b)
    return {
        "ours: mean of the frames' dB": own("psnr", a, b),
        "ours: dB of the mean error": float(squared.decibel(own("psnr_of_mean", a, b))),
        "torchmetrics, range 1": float(peak_signal_noise_ratio(x, y, data_range=1.0)),
        "ours: Y of 8-bit images, range 255 (TecoGAN)": own("psnr_y", a, b),
        "ours: FFmpeg's planes (DTVNet)": own("ffmpeg", a, b, measure="psnr", decimals=None),
    }


def ssims(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    import pytorch_msssim
    from skimage.metrics import structural_similarity
    from torchmetrics.functional.image import structural_similarity_index_measure as theirs

    x, y = tensors(a, b)

    def skimage(**keys: Any) -> float:
        return float(np.mean([structural_similarity(q, p, channel_axis=2, **keys) for p, q in zip(a, b, strict=True)]))

    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return {
        "ours: Wang et al., whole windows, float64": own("ssim", a, b),
        "pytorch-msssim, range 1": float(pytorch_msssim.ssim(x, y, data_range=1.0)),
        "scikit-image, Wang's settings, range 1": skimage(data_range=1.0, **wang),
        "scikit-image, default 7x7, range 1": skimage(data_range=1.0),
        "torchmetrics, range 1": float(theirs(x, y, data_range=1.0)),
        "torchmetrics, no range given": float(theirs(x, y)),
        "pytorch-msssim, range forgotten (255)": float(pytorch_msssim.ssim(x, y)),
        "ours: Y, 7x7, range of the output (TecoGAN)": own("ssim_y", a, b),
        "ours: FFmpeg's 8x8 on planes (DTVNet)": own("ffmpeg", a, b, measure="ssim", decimals=None),
    }


def ms_ssims(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    import pytorch_msssim
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as theirs

    x, y = tensors(a, b)
    return {
        "ours": own("ms_ssim", a, b),
        "pytorch-msssim, range 1": float(pytorch_msssim.ms_ssim(x, y, data_range=1.0)),
        "torchmetrics, range 1": float(theirs(x, y, data_range=1.0)),
    }


def fids(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    import torch
    import torchvision
    from torch.nn import functional

    torch.manual_seed(0)
    state = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    network = inception.build(state.state_dict())
    x, y = tensors(a, b)
    bits = [torch.from_numpy(temporal.eight_bits(i)).permute(0, 3, 1, 2).float() / 255 for i in (a, b)]

    def distance(*images: Any) -> float:
        with torch.no_grad():
            rows = [torch.cat([network(p)[0][:, :, 0, 0] for p in i.split(fid.AT_ONCE)]).numpy() for i in images]
        return frechet.distance(*rows)

    def resized(**keys: Any) -> list[Any]:
        return [functional.interpolate(i, size=(299, 299), **keys) for i in (x, y)]

    found = {
        f"ours, {len(a)} frames": distance(x, y),
        "frames rounded to 8 bits": distance(*bits),
        "bilinear, antialiased (torchmetrics)": distance(
            *resized(mode="bilinear", align_corners=False, antialias=True)
        ),
        "bicubic, antialiased (as clean-fid's)": distance(
            *resized(mode="bicubic", align_corners=False, antialias=True)
        ),
    }
    return {name: value / found[f"ours, {len(a)} frames"] for name, value in found.items()}


if __name__ == "__main__":
    main()
