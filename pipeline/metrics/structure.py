"""What SSIM and MS-SSIM share: Gaussian statistics of an image pair, in float64.

With u = x + y and v = x - y, per window of weights w (K, C1, C2 as in Wang et al. 2004):

    luminance           1 - 2 mu_v^2  / (mu_u^2 + mu_v^2 + 2 C1)    = (2 mu_x mu_y + C1) / (mu_x^2 + mu_y^2 + C1)
    contrast-structure  1 - 2 var_v   / (var_u + var_v + 2 C2)      = (2 cov_xy + C2) / (var_x + var_y + C2)

which takes four blurs (u, v, v^2, u^2; u^2 + v^2 in torch) where the textbook takes five, and fewer passes. OpenCV on the CPU,
torch on a GPU.

Var_u is a difference of nearly equal numbers in smooth areas, where float32 would put SSIM off by up to 1e-4: u is blurred in
float64. The difference image is small where images are alike, and so is what float32 does to it: a window's structure is off
by about 1e-6 mu_v^2 / (var_u + var_v + 2 C2). v is blurred in float32 where the mean of that is below 1e-6, in float64
elsewhere. So the result is that of float64 within 1e-6.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

TAPS, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2  # (K L)^2 with range L = 1
KERNEL = np.exp(-((np.arange(TAPS) - TAPS // 2) ** 2) / (2 * SIGMA**2))
KERNEL /= KERNEL.sum()
STRIP_BYTES = 5 << 19  # of one array that is worked on at a time: a few of them fit the cache

Images = Any  # a frame (H, W, 3) float32 on the CPU, (T, 3, H, W) float64 tensor elsewhere
Terms = tuple[np.ndarray, np.ndarray]  # means over all windows of SSIM and of contrast-structure, (T, 3) float64 each

_last: tuple[np.ndarray, np.ndarray, str, Terms] | None = None


def full_size(prediction: np.ndarray, target: np.ndarray, device: str) -> Terms:
    """Return `terms` of every frame at full size, of (T, H, W, 3) float32 in [0,1].

    The last result is kept, so that SSIM and MS-SSIM of the same frames share it; only for read-only arrays, whose
    identity says that their values are the same.
    """
    global _last
    if _last and _last[0] is prediction and _last[1] is target and _last[2] == device:
        return _last[3]
    terms_of_pairs = [terms(x, y) for x, y in pairs(prediction, target, device)]
    result = (np.concatenate([f[0] for f in terms_of_pairs]), np.concatenate([f[1] for f in terms_of_pairs]))
    frozen = not (prediction.flags.writeable or target.flags.writeable)
    _last = (prediction, target, device, result) if frozen else None
    return result


def pairs(prediction: np.ndarray, target: np.ndarray, device: str) -> list[tuple[Images, Images]]:
    """Return the frames pair by pair on the CPU, all at once elsewhere, as `terms` and `halve` take them."""
    if device == "cpu":
        return list(zip(prediction, target, strict=True))
    import torch

    x, y = (torch.tensor(a).to(device).double().permute(0, 3, 1, 2) for a in (prediction, target))
    return [(x, y)]


def terms(x: Images, y: Images) -> Terms:
    """Return the means over all whole windows of SSIM and of contrast-structure, per frame and channel."""
    return _terms_opencv(x, y) if isinstance(x, np.ndarray) else _terms_torch(x + y, x - y)


def _terms_opencv(x: np.ndarray, y: np.ndarray) -> Terms:
    height, width = x.shape[0] - TAPS + 1, x.shape[1] - TAPS + 1
    strips = -(-height // max(STRIP_BYTES // (8 * x[0].size), 2 * TAPS))
    rows = -(-height // strips)  # as many in each: where they meet, work is done twice
    sums = sum(_sums(x[top : top + rows + TAPS - 1], y[top : top + rows + TAPS - 1]) for top in range(0, height, rows))
    far, differ, product = sums / (height * width)
    return (1 - 2 * far - 2 * differ + 4 * product)[None], (1 - 2 * differ)[None]


def _sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the sums over windows of far, differ and their product, per channel: (3, 3).

    Luminance is 1 - 2 far, contrast-structure 1 - 2 differ. In place: fresh memory costs more than the arithmetic.
    """
    m, s = (a.astype(np.float32) for a in _moments(cv2.add(x, y).astype(np.float64)))
    far, differ = _moments(cv2.subtract(x, y))
    # The quotient is below far / (2 C2): most pairs need no closer look.
    if max(cv2.mean(far)) > 2 * C2 and max(cv2.mean(far / (s + differ + np.float32(2 * C2)))) > 1:
        far, differ = (a.astype(np.float32) for a in _moments(np.subtract(x, y, dtype=np.float64)))
    m = cv2.addWeighted(m, 1, far, 1, 2 * C1, dst=m)
    s = cv2.addWeighted(s, 1, differ, 1, 2 * C2, dst=s)
    far /= m
    differ /= s
    sums = [cv2.sumElems(far)[:3], cv2.sumElems(differ)[:3]]
    far *= differ
    return np.array([*sums, cv2.sumElems(far)[:3]])


def _moments(a: Any) -> tuple[Any, Any]:
    """Return the squared mean and the variance of every window, in the precision of `a`, which is squared in place."""
    squared = _blur(a)
    a *= a
    variance = _blur(a, a)
    squared *= squared
    variance -= squared
    return squared, variance


def _blur(a: Any, into: Any = None) -> Any:
    edge, kernel = TAPS // 2, KERNEL.astype(a.dtype)
    return cv2.sepFilter2D(a, -1, kernel, kernel, into)[edge:-edge, edge:-edge]


def _terms_torch(u: Any, v: Any) -> Terms:
    import torch
    from torch.nn import functional

    kernel = torch.tensor(KERNEL, device=u.device).expand(u.shape[1], 1, 1, TAPS)

    def blur(a: Any) -> Any:
        rows = functional.conv2d(a, kernel.transpose(2, 3), groups=a.shape[1])
        return functional.conv2d(rows, kernel, groups=a.shape[1])

    far, both = blur(v) ** 2, blur(u) ** 2
    both = both + far
    luminance = 1 - 2 * far / (both + 2 * C1)
    structure = 1 - 2 * (blur(v * v) - far) / (blur(u * u + v * v) - both + 2 * C2)
    ssim, structure = (a.mean(dim=(2, 3)).cpu().numpy() for a in (luminance * structure, structure))
    return ssim, structure


def halve(a: Images) -> Images:
    """Return images at half size: 2x2 means, odd sides padded with a zero before the first row or column."""
    if isinstance(a, np.ndarray):
        height, width = a.shape[:2]
        if height % 2 or width % 2:
            a = cv2.copyMakeBorder(a, height % 2, 0, width % 2, 0, cv2.BORDER_CONSTANT, value=0)
        return cv2.resize(a, (a.shape[1] // 2, a.shape[0] // 2), interpolation=cv2.INTER_AREA)
    from torch.nn import functional

    return functional.avg_pool2d(a, 2, padding=[side % 2 for side in a.shape[-2:]])
