"""Animate images: from each, clips that begin with it, one for each motion that is drawn.

    python -m pipeline.animate sky.jpg --output sky.mp4
    python -m pipeline.animate photos/ --samples 4 --format gif --output clips/
    python -m pipeline.animate sky.jpg --model dtvnet_published --checkpoint data/weights/DTV_G.pth --output sheet.png
    python -m pipeline.animate sky.jpg --model cinn_landscape --motion-from other.mp4 --output same_motion.gif
    python -m pipeline.animate table.png --model cinn_push_control --endpoint 0.7 -0.1 0.25 --samples 8 --output sheet.png

An output with a suffix is of one image: a video (.mp4, .mov, .mkv) or .gif with its samples side by side, or a .png with
frames of all samples on a sheet. A folder gets for each image `<image>_<sample>.mp4` (`--format`: gif, or png for folders
of frames) and `<image>_sheet.png`. Images may be of any size, grey, see-through (laid on white) or turned by EXIF. The network gets
them at its own square size; the clip is brought back to the image's size, or stays square with `--size model`. The same
seed gives the same clips.

`--motion-from`: the motion of a video, a folder of PNG images or an array, in place of a drawn one. `--endpoint`: where motion
shall end, in the dataset's units; sheets then show the last frames. The point is marked where the dataset knows its pixel:
`demo_push` does; BAIR's camera was never calibrated, so there it is not.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import compute, params, tasks, weights
from pipeline.drawing.encode import SUFFIXES, write_gif, write_video
from pipeline.drawing.images import write_image
from pipeline.drawing.sheets import sheet, spread, wrap
from pipeline.errors import RetakeError, log, progress, run
from pipeline.outputs import unused, unused_folder
from pipeline.params import Params
from pipeline.registry import registry
from pipeline.sources import limits
from pipeline.sources.clips import clips
from pipeline.sources.images import read_any

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT = "dtvnet_demo"
CHECKPOINTS = Path("data/checkpoints")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SHOWN = 8  # frames of a clip on a sheet
MOST = {"samples": 1000, "frames": 10_000, "fps": 1000}
LARGE = 160  # pixels at a side of an image in which something is marked


def main() -> None:
    """Parse the command line and animate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="images, or folders of images")
    parser.add_argument("--model", default=DEFAULT, help=f"entry of `models` in params.yaml (default: {DEFAULT})")
    parser.add_argument(
        "--checkpoint", type=Path, help="ours, or a published file (default: the one of the model in data/checkpoints)"
    )
    parser.add_argument("--output", type=Path, required=True, help=".mp4, .mov, .mkv, .gif, .png, or a folder")
    parser.add_argument("--samples", type=int, default=3, help="clips of each image (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the motions that are drawn (default: 0)")
    parser.add_argument("--frames", type=int, default=32, help="frames of a clip, the image among them (default: 32)")
    parser.add_argument("--fps", type=int, default=10, help="frames a second (default: 10)")
    parser.add_argument(
        "--size", choices=["image", "model"], default="image", help="size of the clips (default: image)"
    )
    parser.add_argument("--format", choices=["mp4", "gif", "png"], default="mp4", help="of clips in a folder")
    parser.add_argument(
        "--motion-from", type=Path, metavar="CLIP", help="a clip whose motion the images get: one sample"
    )
    parser.add_argument(
        "--endpoint", type=float, nargs="+", metavar="X", help="where motion shall end, as the dataset measures it"
    )
    args = parser.parse_args()
    for option in ("samples", "frames", "fps"):
        if not 1 <= getattr(args, option) <= MOST[option]:
            parser.error(f"--{option} must be from 1 to {MOST[option]}")
    if args.seed < 0:
        parser.error("--seed must be at least 0")
    if not all(map(math.isfinite, args.endpoint or [])):
        parser.error("--endpoint must be numbers")
    images = found(args.images)
    single = bool(args.output.suffix) and not args.output.is_dir()
    check(args.output, images, single)
    animator = Animator(params.load(), args.model, args.checkpoint, args.motion_from, args.endpoint)
    seeds = range(args.seed, args.seed + (args.samples if args.motion_from is None else 1))
    for path in progress(images, unit="image", desc="animate"):
        image = read_any(path)
        needed = len(seeds) * args.frames * max(image.size, 3 * (animator.network.size or 0) ** 2)
        if needed > limits.HELD:
            raise RetakeError(
                f"{path}: {len(seeds)} clips of {args.frames} frames are {needed} bytes, up to {limits.HELD} are held at once: "
                "give a smaller number of --samples or --frames"
            )
        made = animator.clips(image, args.frames, seeds)
        if args.size == "image":
            made = [resized(clip, image.shape[1], image.shape[0]) for clip in made]
        if single:
            write_single(args.output, made, path.name, args.fps, animator.overview)
        else:
            write_all(args.output / path.stem, made, args.format, args.fps, animator.overview)
    log.info("animated %d images: %s", len(images), args.output)


def found(paths: list[Path]) -> list[Path]:
    """Return the images that are named, and those of the folders that are and are not hidden, by name. Raises RetakeError where there are none."""
    images: list[Path] = []
    for path in paths:
        inside = (
            [p for p in limits.unhidden(path) if p.suffix.lower() in IMAGES and p.is_file()]
            if path.is_dir()
            else [path]
        )
        if not inside:
            raise RetakeError(f"{path} has no images ({', '.join(IMAGES)})")
        images += inside
    return images


def check(output: Path, images: list[Path], single: bool) -> None:
    """Raise RetakeError when `output` cannot hold the clips of the images, or is there already: before anything is computed."""
    if single:
        unused(output)
    else:
        unused_folder(output)
        stems = [path.stem for path in images]
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        if twice:
            raise RetakeError(f"several images are named {', '.join(twice[:5])}: their clips would have one name")
        return
    if output.suffix.lower() not in (*SUFFIXES, ".gif", ".png"):
        raise RetakeError(f"{output}: clips are written as {', '.join(SUFFIXES)}, .gif, .png, or into a folder")
    if len(images) > 1:
        raise RetakeError(f"{output} is one file, {len(images)} images are given: name a folder")


class Animator:
    """A model with its weights, and what its clips have in common: the motion of a clip, where motion ends.

    `mark`: where that is in a picture, (x, y) shares of its width and height; None where it is not known. Raises RetakeError for
    a model that cannot animate an image with what is given.
    """

    def __init__(
        self, p: Params, name: str, checkpoint: Path | None, motion: Path | None, endpoint: list[float] | None
    ) -> None:
        import torch

        model = tasks.model(p, name, "animation")
        if checkpoint is None and model.has_weights:
            checkpoint = only_checkpoint(name)
        self.name, self.device = name, compute.device(p)
        self.network, _ = weights.load_model(model, checkpoint, self.device)
        if not self.network.stochastic:
            raise RetakeError(f"{name} draws no motion of its own: use it in an experiment")
        if self.network.controlled != (endpoint is not None):
            raise RetakeError(
                f"{name} is told where motion shall end: give --endpoint"
                if endpoint is None
                else f"{name} knows no end points: leave --endpoint out"
            )
        self.inputs: dict[str, torch.Tensor] = {}
        self.mark: tuple[float, float] | None = None
        if motion is not None:
            self.inputs["motion"] = self._motion(motion)
        if endpoint is not None:
            self.inputs["endpoint"] = torch.tensor([endpoint], device=self.device)
            dataset = p.datasets.get(checkpoint.stem) if checkpoint is not None else None
            seen = registry("datasets")[dataset.kind].seen if dataset is not None else None
            self.mark = seen(endpoint) if seen is not None else None
            if self.mark is None:
                log.info("end points of %s are not marked in pictures: its camera is not known", checkpoint)

    def _motion(self, path: Path) -> Any:
        """Return the one clip at a path, (1, n, 3, S, S) in [0,1]. Raises RetakeError for several, or a model that reads none."""
        import torch

        if self.network.motion != "frames":
            raise RetakeError(f"{self.name} takes no motion from frames: leave --motion-from out")
        by_name = clips(path)
        if len(by_name) != 1:
            raise RetakeError(f"{path} holds {len(by_name)} clips ({', '.join(list(by_name)[:5])}): name one of them")
        images = next(iter(by_name.values())).read()
        if images.dtype != np.uint8:
            raise RetakeError(f"{path}: --motion-from takes 8-bit images")
        small = resized(images, self.network.size, self.network.size)
        return torch.from_numpy(small).permute(0, 3, 1, 2)[None].to(self.device).float() / 255

    def clips(self, image: np.ndarray, frames: int, seeds: range) -> list[np.ndarray]:
        """Return a clip (frames, H, W, 3) uint8 for each seed, at the network's size, that begins with the image.

        `image`: (height, width, 3) uint8. Raises RetakeError for values that are not finite.
        """
        import torch

        side = self.network.size
        width, height = (side, side) if side else (image.shape[1] // 2 * 2, image.shape[0] // 2 * 2)
        small = torch.from_numpy(resized(image[None], width, height).copy()).permute(0, 3, 1, 2)
        start = (small.to(self.device).float() / 255).expand(len(seeds), 1, -1, -1, -1)

        inputs = {name: value.expand(len(seeds), *value.shape[1:]) for name, value in self.inputs.items()}

        def generate(n: int) -> Tensor:
            return self.network.predict(start, n, seeds=list(seeds), **inputs)

        with torch.no_grad():
            made = tasks.part("animation", "predict").beginning(self.network, start, frames, "drawn", generate)
        if not torch.isfinite(made).all():
            raise RetakeError(f"{self.name} gives NaN or infinity: look at its training")
        return list((made.clamp(0, 1) * 255).round().byte().permute(0, 1, 3, 4, 2).cpu().numpy())

    def overview(self, clips: list[np.ndarray], title: str) -> np.ndarray:
        """Return a sheet with a row a clip, (height, width, 3) uint8; where motion's end was given, of the last frames alone."""
        if "endpoint" in self.inputs:
            return sheet(wrap([(f"sample {s}", marked(clip[-1], self.mark)) for s, clip in enumerate(clips)]), title)
        numbers = spread(range(len(clips[0])), SHOWN)
        rows = [[(f"sample {s}, {n + 1}", clip[n]) for n in numbers] for s, clip in enumerate(clips)]
        return sheet(rows, title)


def only_checkpoint(name: str) -> Path:
    """Return the one checkpoint of a model in data/checkpoints; raises RetakeError for none or several."""
    checkpoints = limits.unhidden(CHECKPOINTS / name, "*.pt")
    if len(checkpoints) != 1:
        what = f"several: {', '.join(p.name for p in checkpoints)}" if checkpoints else "none"
        dataset = "demo_sky" if name == DEFAULT else "DATASET"
        raise RetakeError(
            f"checkpoints in {CHECKPOINTS / name}: {what}. Give --checkpoint, or train the model with "
            f"`snakemake {CHECKPOINTS / name}/{dataset}.pt`"
        )
    return checkpoints[0]


def resized(clip: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return (n, height, width, 3) uint8 of a clip of any size: bilinear, antialiased where it becomes smaller."""
    from PIL import Image

    if clip.shape[1:3] == (height, width):
        return clip
    return np.stack([np.asarray(Image.fromarray(i).resize((width, height), Image.Resampling.BILINEAR)) for i in clip])


Overview = Callable[[list[np.ndarray], str], np.ndarray]


def write_single(output: Path, clips: list[np.ndarray], title: str, fps: int, overview: Overview) -> None:
    """Write all clips of an image into one file: side by side, or on a sheet."""
    if output.suffix.lower() == ".png":
        write_image(output, overview(clips, title))
        return
    write = write_gif if output.suffix.lower() == ".gif" else write_video
    write(output, np.concatenate(clips, axis=2), fps)


def write_all(stem: Path, clips: list[np.ndarray], kind: str, fps: int, overview: Overview) -> None:
    """Write each clip of an image, and their sheet, under names that begin with `stem`."""
    for sample, clip in enumerate(clips):
        where = stem.with_name(f"{stem.name}_{sample}")
        if kind == "png":
            for number, image in enumerate(clip, start=1):
                write_image(where / f"{number:04d}.png", image)
        else:
            write: Callable[..., None] = write_gif if kind == "gif" else write_video
            write(where.with_name(f"{where.name}.{kind}"), clip, fps)
    write_image(stem.with_name(f"{stem.name}_sheet.png"), overview(clips, stem.name))


def marked(image: np.ndarray, mark: tuple[float, float] | None) -> np.ndarray:
    """Return an image, made large enough to see it, with a cross at a place in shares of its sides; None: without one."""
    import cv2

    factor = max(-(-LARGE // min(image.shape[:2])), 1)
    large = image.repeat(factor, 0).repeat(factor, 1)
    if mark is None:
        return large
    x, y = (round(share * (side - 1)) for share, side in zip(mark, large.shape[1::-1], strict=True))
    return cv2.drawMarker(large, (x, y), (255, 0, 255), cv2.MARKER_CROSS, LARGE // 8, 2)


if __name__ == "__main__":
    run(main, "animate")
