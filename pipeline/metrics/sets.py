"""What FID, FVD and DTFVD share: features of a network, kept, and their Fréchet distance; no registry entry of its own.

The metrics' `build` gives a `Distance`. One with another network, preprocessing or formula has other settings and does not
compare. Weights come by pipeline/weights.py alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.metrics import Undefined, cache, frechet

# I3D with 400 scores, by variant of FVD: row of workflow/weights.csv, network and resize as the table prints them, range, the distance's route
I3D: dict[str, tuple[str, str, str, list[int], frechet.Route]] = {
    "tfhub": ("i3d_tf", "TF-hub I3D kinetics-400", "224, TF1 bilinear", [-1, 1], "tensorflow"),
    "kinetics": ("i3d_rgb", "PyTorch I3D model_rgb.pth", "224, bilinear, corner-aligned", [0, 1], "auto"),
    "styleganv": ("i3d_torchscript", "i3d_torchscript.pt", "224, bilinear, half-pixel", [-1, 1], "auto"),
    "videogpt": ("i3d_videogpt", "i3d_pretrained_400.pt", "224, bilinear, half-pixel", [-1, 1], "tensorflow"),
}
SHORTEST = 9  # frames of a clip for it: of fewer nothing is left for the average pool
TEXTURES = "224, bilinear, corner-aligned"  # resize of DTFVD
UNITS = 50  # of an interval; of more clips those that follow one another are one unit
VERSION = 1  # of resizing, networks and distance; another one makes kept features again


@dataclass(frozen=True)
class Found:
    """A distance of two sets: its value, samples and features, and what its interval is made of.

    `units`: what the interval's units are; `sizes`: samples in each; `without`: the values without each of them, empty
    where that leaves nothing or would take hours.
    """

    value: float
    samples: int
    features: int
    units: str
    sizes: list[int]
    without: list[float]

    @property
    def note(self) -> str:
        """What must stand beside the value."""
        few = self.samples <= self.features
        return f"{self.samples} samples" + (
            f" for {self.features} features: too few, compare only with distances of as many" if few else ""
        )


@dataclass(frozen=True)
class Distance:
    """A built distance of sets.

    `network`: (T, 3, H, W) float32 tensor in [0,1] on its device -> (rows, D); all of a clip, or some frames. `identity`: what
    the features depend on besides the images. `shortest`: frames that a clip must have; `exactly`: and no more.
    """

    network: Callable[[Any], Any]
    identity: dict[str, Any]
    device: str
    unit: Literal["frames", "clips"]
    route: frechet.Route = "auto"
    drop: int | None = None
    keep_short: bool = True
    shortest: int = 1
    exactly: bool = False

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the features of (T, H, W, 3) float32 RGB in [0,1]: (T, D) of frames, (1, D) of a clip.

        Raises Undefined for a clip of a length that the network does not take.
        """
        import torch

        if len(images) < self.shortest or (self.exactly and len(images) > self.shortest):
            least = "exactly" if self.exactly else "at least"
            raise Undefined(f"clips of {least} {self.shortest} frames are needed, these have {len(images)}")
        tensor = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).to(self.device)
        # TF32 would cost three digits
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            return self.network(tensor).float().cpu().numpy()

    def rows(self, content: str, count: int, images: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
        """Return the features of `count` frames or clips, kept under `content`, which names them; (count, D), mapped.

        `images` gives what `features` takes, and is asked only when they are not there.
        """
        key = {**self.identity, "version": VERSION, "content": content}
        return cache.rows(key, count, lambda: map(self.features, images()))

    def kept(self, samples: int) -> int:
        """Return how many of the samples count; raises Undefined where those are fewer than two."""
        rows = samples if self.drop is None else frechet.kept(samples, self.drop, short=self.keep_short)
        if rows < 2:
            of = (
                f"batches of {self.drop} whose remainder is dropped leave {rows} of {samples}"
                if self.drop
                else f"there is {rows}"
            )
            raise Undefined(f"a distance of two sets needs 2 {self.unit} or more in each, {of}")
        return rows

    def distance(self, predicted: Any, true: Any, clips: np.ndarray) -> Found:
        """Return the distance of two sets of features (N, D); `clips`: the number of each row's clip, (N,) integers from 0."""
        if (rows := self.kept(len(clips))) < len(clips):
            predicted, true, clips = predicted[:rows], true[:rows], clips[:rows]
        value = frechet.distance(predicted, true, self.route)
        count = int(clips.max()) + 1
        units = clips * min(count, UNITS) // count
        without = frechet.without_each(predicted, true, units, self.route)
        name = "clips" if count <= UNITS else "blocks of clips"
        return Found(value, len(clips), predicted.shape[1], name, np.bincount(units).tolist(), without)


def label(name: str, drop: int | None) -> str:
    """Return the name of a distance's column for people."""
    return name if drop is None else f"{name}, whole batches of {drop}"


def settings(name: str, *, drop: int | None, **told: Any) -> dict[str, Any]:
    """Return what a reader must know to compare distances of one kind."""
    counted = "all" if drop is None else f"what does not fill a batch of {drop} is left out"
    return {"name": label(name, drop), **told, "counted": counted, "version": VERSION}


def identity(state: dict[str, Any], network: str, resize: str) -> dict[str, Any]:
    """Return what features depend on besides the images."""
    from pipeline import weights

    return {"network": network, "weights": weights.digest(state), "input": resize}


def i3d_scores(variant: str, device: str) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """Return the function (T, 3, H, W) in [0,1] -> (1, 400) scores of a variant of FVD, and what they depend on.

    Raises weights.Missing when the weights cannot be had.
    """
    from pipeline import weights
    from pipeline.metrics.networks import i3d, videos
    from pipeline.sources import tensorflow

    row, _, resize, _, _ = I3D[variant]
    prepare = videos.half_pixel_input
    if variant == "tfhub":
        network = i3d.tensorflow().load(i3d.from_tensorflow(tensorflow.read(weights.path(row))), row)
        prepare = videos.tensorflow_input
    elif variant == "kinetics":
        network = i3d.kinetics().load(weights.load(row), row)
        prepare = videos.pytorch_input
    elif variant == "styleganv":
        network = i3d.scripted(weights.load_script(weights.path(row)), row)
    else:
        network = i3d.videogpt().load(weights.load(row), row)
    network = network.to(device)
    return lambda frames: network.scores(prepare(2 * frames[None] - 1)), identity(
        network.state_dict(), f"i3d {variant}", resize
    )


def i3d_textures(length: int, device: str) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """Return the function (T, 3, H, W) in [0,1] -> (1, 1024) features of DTFVD's network, and what they depend on.

    Raises weights.Missing when the weights cannot be had.
    """
    from pipeline import weights
    from pipeline.metrics.networks import i3d, videos

    row = f"dtfvd_{length}"
    state = weights.load(row)
    network = i3d.textures(length).load(state, row).to(device)
    return lambda frames: network.features(videos.texture_input(2 * frames[None] - 1, length)), identity(
        state, row, TEXTURES
    )
