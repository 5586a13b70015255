"""The trust page: what was checked, against what, and what never was. `python -m tests.verified` writes docs/verified.md.

Reference values are computed here, by our metrics and by other packages; the page is written only where they agree.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import params, weights
from pipeline.metrics import dists, frechet, warping_error

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/verified.md"
NOISE = "np.random.seed(5); noisy = np.clip(camera + np.random.normal(0, 20, camera.shape), 0, 255).astype(np.uint8)"

# Of the package dists-pytorch 0.1 in float64, for `dists_pair()`, `filled_vgg16()` and the published alpha and beta; 0.0049255 in
# float32. piq 0.8.0 gives 0.0049257 in float32.
DISTS = 0.004925552259516297

NEVER = """\
* Scores of published checkpoints on whole test sets, and trainings of full length: neither data nor weights could be fetched where the
  tests run. The networks themselves are held by the parity cases above.
* DTVNet's tables: no number of its papers could be read.
* FID, FVD, LPIPS and DISTS with their published networks: the arithmetic is checked with filled weights, the weights by their digest when they are fetched.
* The padding of StyleGAN-V's and VideoGPT's I3D: no specification was at hand.
* TecoGAN's ablations DsOnly, DsDt and DsDtPP, and cINN without its flow: the papers' words, no parity case.
* More than two processes of one training, several machines, bfloat16 training to the end."""


def value(kind: str, a: np.ndarray, b: np.ndarray, **keys: Any) -> float:
    """Return a metric of two images (H, W, 3) uint8, one frame each."""
    module = params.registry("metrics")[kind]
    function = module.build(module.Params(kind=kind, **keys), "cpu")
    return float(function(*(image[None].astype(np.float32) / 255 for image in (a, b)))[0])


def references() -> list[tuple[str, str, str, float, dict[str, float]]]:
    """Return (metric, input, note, our value, values of others by name)."""
    import pytorch_msssim
    import torch
    from skimage import data
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    from torchmetrics.functional.image import peak_signal_noise_ratio as peak_signal_noise_ratio_of_torch

    camera = data.camera()
    np.random.seed(5)  # noqa: NPY002 - the published value is of this generator
    noisy = np.clip(camera + np.random.normal(0, 20, camera.shape), 0, 255).astype(np.uint8)  # noqa: NPY002
    colour = [np.repeat(image[..., None], 3, axis=2) for image in (noisy, camera)]
    tensors = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in colour]
    ssim = structural_similarity(
        camera, noisy, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    found = [
        (
            "PSNR", "scikit-image's camera, noise of sigma 20", "", value("psnr", *colour),
            {"scikit-image": float(peak_signal_noise_ratio(camera, noisy, data_range=255)),
             "torchmetrics": float(peak_signal_noise_ratio_of_torch(*(t.double() for t in tensors), data_range=1.0)),
             "public value 22.409353": 22.409353},
        ),
        ("SSIM", "the same", "Gaussian window", value("ssim", *colour), {"scikit-image": float(ssim), "public value 0.357964": 0.357964}),
        (
            "MS-SSIM", "the same", "", value("ms_ssim", *colour),
            {"pytorch-msssim": float(pytorch_msssim.ms_ssim(*tensors, data_range=1.0))},
        ),
    ]  # fmt: skip
    return [*found, _filter(*colour), *_closed_forms(), _flicker(), _dists()]


def _filter(noisy: np.ndarray, camera: np.ndarray) -> tuple[str, str, str, float, dict[str, float]]:
    """Return the reference of FFmpeg's filter psnr, as bundled with PyAV: the definition on the planes that it compares."""
    import av

    planes = [
        av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv444p").to_ndarray().astype(float)
        for image in (noisy, camera)
    ]
    expected = 10 * np.log10(255**2 / ((planes[0] - planes[1]) ** 2).mean())
    ours = value("ffmpeg", noisy, camera, measure="psnr", decimals=None)
    version = ".".join(map(str, av.library_versions["libavfilter"]))
    return (
        "PSNR of FFmpeg's filter",
        "the same, as RGB",
        f"libavfilter {version}",
        ours,
        {"definition on its planes": expected},
    )


def _flicker() -> tuple[str, str, str, float, dict[str, float]]:
    """Return the reference of the warping error: a still scene that becomes lighter by a tenth."""
    still = np.random.default_rng(0).random((1, 32, 32, 3), np.float32).repeat(2, axis=0) * np.float32(0.5)
    ours = warping_error.build(warping_error.Params(kind="warping_error"), "cpu")(
        still + np.float32([0, 0.1]).reshape(2, 1, 1, 1), still, (slice(None), slice(None))
    )
    return "Warping error", "a still clip, the second frame lighter by 0.1", "DIS", ours, {"definition": 0.01}


def filled_vgg16() -> dict[str, Any]:
    """Return torchvision's VGG16, its convolutions filled as parity cases are, tensors by name."""
    import torch
    import torchvision

    from tests.golden.fill import fill

    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]).state_dict()
    shapes = {f"features.{name}": tuple(layer.shape) for name, layer in layers.items()}
    return {name: torch.from_numpy(fill(name, shape)) for name, shape in shapes.items()}


def dists_pair() -> tuple[np.ndarray, np.ndarray]:
    """Return blocks of colour and the same with noise, (1, 96, 128, 3) float32 in [0,1]."""
    rng = np.random.RandomState(0)
    blocks = np.kron(rng.uniform(size=(12, 16, 3)).astype(np.float32), np.ones((8, 8, 1), np.float32))
    noisy = np.clip(blocks + 0.1 * rng.standard_normal(blocks.shape), 0, 1).astype(np.float32)
    return blocks[None], noisy[None]


def dists_weights() -> Path:
    """Return the file of the published alpha and beta that torchmetrics brings."""
    import torchmetrics.functional.image.dists as package

    return Path(package._PATH_WEIGHT_DISTS)


def _dists() -> tuple[str, str, str, float, dict[str, float]]:
    """Return the reference of DISTS, whose own weights are published and whose VGG16 is filled."""
    import torch

    images = torch.from_numpy(np.concatenate(dists_pair())).permute(0, 3, 1, 2)
    with torch.no_grad():
        ours = dists._distance(
            dists._layers(filled_vgg16(), images), *dists._shares(weights.load_file(dists_weights()))
        )
    return "DISTS", "`dists_pair()` of tests/verified.py", "VGG16 filled", float(ours), {"dists-pytorch 0.1": DISTS}


def _closed_forms() -> list[tuple[str, str, str, float, dict[str, float]]]:
    """Return references whose value follows from the definition."""
    grey = np.full((176, 176, 3), 100, np.uint8)
    field = np.zeros((1, 4, 4, 2), np.float32)
    epe = params.registry("metrics")["epe"]
    features = np.random.default_rng(0).normal(size=(64, 4))
    return [
        ("PSNR", "grey 100 against grey 110", "", value("psnr", grey + 10, grey), {"20 log10(25.5)": float(20 * np.log10(25.5))}),
        ("SSIM", "an image against itself", "", value("ssim", grey, grey), {"definition": 1.0}),
        ("EPE", "flow (3, 4) against none", "px", float(epe.build(epe.Params(kind="epe"), "cpu")(field + np.array([3, 4], np.float32), field)[0]), {"definition": 5.0}),
        ("Fréchet distance", "64 normal rows of 4, and the same plus 1", "", frechet.distance(features, features + 1), {"squared shift": 4.0}),
        ("Fréchet distance", "the same", "tensorflow-gan's formula", frechet.distance(features, features + 1, "tensorflow"), {"squared shift": 4.0}),
    ]  # fmt: skip


def agreement(ours: float, theirs: float) -> int:
    """Return how many significant digits two values share, at most 6."""
    if ours == theirs:
        return 6
    return min(6, int(-np.log10(abs(ours - theirs) / abs(theirs))))


def page() -> str:
    """Return the page; raises AssertionError where a value does not agree with others to four digits."""
    lines = [
        "# What was checked, and what never was",
        "",
        "Made by `python -m tests.verified`; `tests/test_verified.py` holds it against the code.",
        "",
    ]
    lines += [
        "## Metrics: reference values without weights",
        "",
        "`camera` is scikit-image's test image, and",
        "",
        f"    {NOISE}",
        "",
    ]
    lines += ["| metric | input | value | agrees with, to digits |", "|---|---|---|---|"]
    for metric, given, note, ours, others in references():
        shared = {name: agreement(ours, theirs) for name, theirs in others.items()}
        assert min(shared.values()) >= 4, (metric, ours, others)
        told = ", ".join(f"{name} ({digits})" for name, digits in shared.items())
        lines.append(f"| {metric}{f' ({note})' if note else ''} | {given} | {ours:.6g} | {told} |")
    lines += ["", "## Networks, losses and metrics with weights: parity cases", ""]
    lines += [
        "Deterministic weights and inputs in, what the published code gives out (`tests/golden`, `tests/test_parity.py`).",
        "",
    ]
    lines += [
        "| case | what | tolerance |",
        "|---|---|---|",
        *map(_case, sorted((ROOT / "tests/golden").glob("*/README.md"))),
    ]
    lines += [
        "",
        "## Published numbers, by grade",
        "",
        "docs/verdicts.md says what a grade is; the numbers stand in `results/published/`.",
        "",
    ]
    lines += ["| file | " + " | ".join(GRADES) + " |", "|---|" + "---|" * len(GRADES)]
    for file in sorted((ROOT / "results/published").glob("*.csv")):
        with file.open(newline="", encoding="utf-8") as opened:
            grades = [row["grade"] for row in csv.DictReader(opened) if re.fullmatch(r"-?[0-9.]+", row["value"])]
        lines.append(f"| {file.stem} | " + " | ".join(str(grades.count(grade)) for grade in GRADES) + " |")
    return "\n".join([*lines, "", "## Never checked", "", NEVER, ""])


GRADES = ("primary", "secondary", "figure", "rerun", "unverified")


def _case(readme: Path) -> str:
    """Return the line of a parity case: its name, its title, what its README says of tolerance."""
    text = readme.read_text()
    title = re.sub(r"^#\s*(Golden case: )?", "", text.splitlines()[0])
    sentence = re.search(r"[Tt]olerances?:? (.*?)(?:\.\s|\n\n|$)", text, re.S)
    told = re.sub(r"\s+", " ", sentence[1]) if sentence else "see its README"
    return f"| {readme.parent.name} | {title} | {told} |".replace("`", "")


def main(write: Callable[[str], Any] = PAGE.write_text) -> None:
    """Write the page."""
    write(page())


if __name__ == "__main__":
    main()
