"""Animate images: from each, clips that begin with it, one for each motion that is drawn.

    python -m pipeline.animate sky.jpg --output sky.mp4
    python -m pipeline.animate photos/ --samples 4 --format gif --output clips/
    python -m pipeline.animate sky.jpg --model dtvnet_published --checkpoint data/weights/DTV_G.pth --output sheet.png

An output with a suffix is of one image: a video (.mp4, .mov, .mkv) or .gif with its samples side by side, or a .png with
frames of all samples on a sheet. A folder gets for each image `<image>_<sample>.mp4` (`--format`: gif, or png for folders
of frames) and `<image>_sheet.png`. Images may be of any size, grey, see-through (laid on white) or turned by EXIF. The network gets
them at its own square size; the clip is brought back to the image's size, or stays square with `--size model`. The same
seed gives the same clips.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline import compute, params, tasks, weights
from pipeline.drawing.encode import SUFFIXES, write_gif, write_video
from pipeline.drawing.images import write_image
from pipeline.drawing.sheets import sheet, spread
from pipeline.errors import RetakeError, log, progress, run
from pipeline.params import Params
from pipeline.sources.images import read_any

DEFAULT = "dtvnet_demo"
CHECKPOINTS = Path("data/checkpoints")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SHOWN = 8  # frames of a clip on a sheet


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
    args = parser.parse_args()
    for option in ("samples", "frames", "fps"):
        if getattr(args, option) < 1:
            parser.error(f"--{option} must be at least 1")
    images = found(args.images)
    single = bool(args.output.suffix) and not args.output.is_dir()
    check(args.output, images, single)
    animator = Animator(params.load(), args.model, args.checkpoint)
    for path in progress(images, unit="image", desc="animate"):
        image = read_any(path)
        clips = animator.clips(image, args.frames, range(args.seed, args.seed + args.samples))
        if args.size == "image":
            clips = [resized(clip, image.shape[1], image.shape[0]) for clip in clips]
        if single:
            write_single(args.output, clips, path.name, args.fps)
        else:
            write_all(args.output / path.stem, clips, args.format, args.fps)
    log.info("animated %d images: %s", len(images), args.output)


def found(paths: list[Path]) -> list[Path]:
    """Return the images that are named, and those of the folders that are, by name. Raises RetakeError where there are none."""
    images: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES) if path.is_dir() else [path]
        if not inside:
            raise RetakeError(f"{path} has no images ({', '.join(IMAGES)})")
        images += inside
    return images


def check(output: Path, images: list[Path], single: bool) -> None:
    """Raise RetakeError when `output` cannot hold the clips of the images, or is there already: before anything is computed."""
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise RetakeError(f"{output} is there already: name another output, or delete it")
    if not single:
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
    """A model with its weights. Raises RetakeError for one that cannot animate an image by itself."""

    def __init__(self, p: Params, name: str, checkpoint: Path | None) -> None:
        model = tasks.model(p, name, "animation")
        if checkpoint is None and model.has_weights:
            checkpoint = only_checkpoint(name)
        self.name, self.device = name, compute.device(p)
        self.network, _ = weights.load_model(model, checkpoint, self.device)
        if not self.network.stochastic or self.network.controlled:
            raise RetakeError(f"{name} draws no motion of its own: use it in an experiment")

    def clips(self, image: np.ndarray, frames: int, seeds: range) -> list[np.ndarray]:
        """Return a clip (frames, H, W, 3) uint8 for each seed, at the network's size, that begins with the image.

        `image`: (height, width, 3) uint8. Raises RetakeError for values that are not finite.
        """
        import torch

        side = self.network.size
        width, height = (side, side) if side else (image.shape[1] // 2 * 2, image.shape[0] // 2 * 2)
        small = resized(image[None], width, height)
        start = torch.from_numpy(small).permute(0, 3, 1, 2)[None].to(self.device).float() / 255
        begin = tasks.part("animation", "predict").beginning
        clips = []
        for seed in seeds:
            with torch.no_grad():
                clip = begin(
                    self.network, start, frames, "drawn", lambda n, s=seed: self.network.predict(start, n, seeds=[s])
                )
            if not torch.isfinite(clip).all():
                raise RetakeError(f"{self.name} gives NaN or infinity for seed {seed}: look at its training")
            clips.append((clip[0].clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        return clips


def only_checkpoint(name: str) -> Path:
    """Return the one checkpoint of a model in data/checkpoints; raises RetakeError for none or several."""
    there = sorted((CHECKPOINTS / name).glob("*.pt"))
    if len(there) != 1:
        what = f"several: {', '.join(p.name for p in there)}" if there else "none"
        raise RetakeError(
            f"checkpoints in {CHECKPOINTS / name}: {what}. Give --checkpoint, or train the model with "
            f"`snakemake {CHECKPOINTS / name}/DATASET.pt` (the demo: `snakemake {CHECKPOINTS / DEFAULT}/demo_sky.pt`)"
        )
    return there[0]


def resized(clip: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return (n, height, width, 3) uint8 of a clip of any size: bilinear, antialiased where it becomes smaller."""
    from PIL import Image

    if clip.shape[1:3] == (height, width):
        return clip
    return np.stack([np.asarray(Image.fromarray(i).resize((width, height), Image.Resampling.BILINEAR)) for i in clip])


def write_single(output: Path, clips: list[np.ndarray], title: str, fps: int) -> None:
    """Write all clips of an image into one file: side by side, or on a sheet."""
    if output.suffix.lower() == ".png":
        write_image(output, overview(clips, title))
        return
    write = write_gif if output.suffix.lower() == ".gif" else write_video
    write(output, np.concatenate(clips, axis=2), fps)


def write_all(stem: Path, clips: list[np.ndarray], kind: str, fps: int) -> None:
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


def overview(clips: list[np.ndarray], title: str) -> np.ndarray:
    """Return a sheet with a row a clip, (height, width, 3) uint8."""
    numbers = spread(range(len(clips[0])), SHOWN)
    rows = [[(f"sample {s}, {n + 1}", clip[n]) for n in numbers] for s, clip in enumerate(clips)]
    return sheet(rows, title)


if __name__ == "__main__":
    run(main, "animate")
