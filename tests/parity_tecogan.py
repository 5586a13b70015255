"""Parity of TecoGAN with the published networks, operators, losses and metrics.

`CASES`: {case folder's name: function of (folder, seed) that asserts}. Arrays in the cases are NHWC.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from golden.fill import state_dict
from torch import Tensor

from pipeline.losses.slim_vgg import SlimVgg
from pipeline.metrics import temporal
from pipeline.models.tecogan import Params, build, network, ops, training
from pipeline.tasks.super_resolution import clips, grid

TRIM = 2  # frames at both ends of a scene that the published script leaves out
Distance = Callable[[np.ndarray, np.ndarray], float]  # mean LPIPS distance of two images, (h, w, 3) float32 in [-1,1]


def arrays(case: Path) -> dict[str, np.ndarray]:
    with np.load(case / "case.npz") as data:
        return {name: data[name] for name in data.files}


def variables(case: Path, seed: int) -> dict[str, np.ndarray]:
    """Return the case's published variables, in TensorFlow's layout, the gains applied."""
    state = state_dict(case, seed)
    gains = json.loads((case / "gains.json").read_text()) if (case / "gains.json").exists() else {}
    return {name: value * np.float32(gains.get(name, 1)) if name in gains else value for name, value in state.items()}


def blocks(state: dict[str, np.ndarray]) -> int:
    return sum(name.endswith("conv_1/Conv/weights") and "resblock" in name for name in state)


def channels_first(x: np.ndarray) -> Tensor:
    """Return (..., C, H, W) of (..., H, W, C)."""
    return torch.from_numpy(np.moveaxis(x, -1, -3).copy())


def channels_last(x: Tensor) -> np.ndarray:
    return np.moveaxis(x.detach().numpy(), -3, -1)


def close(found: Tensor | np.ndarray, wanted: np.ndarray, tolerance: float, what: str) -> None:
    found = channels_last(found) if isinstance(found, Tensor) else found
    assert found.shape == wanted.shape, f"{what}: shape {found.shape}, published {wanted.shape}"
    error = float(np.abs(found - wanted).max())
    assert error <= tolerance, f"{what}: off by {error:.2e}, allowed {tolerance:.0e}"


def close_relative(found: float, wanted: float, tolerance: float, what: str) -> None:
    assert abs(found - wanted) <= tolerance * abs(wanted), f"{what}: {found:.8g}, published {wanted:.8g}"


def recipe(**changes: Any) -> dict[str, Any]:
    """Return the published TecoGAN recipe, as params.yaml writes it, with changes."""
    return {
        **dict(batch=4, epochs=1, max_steps=500_000, seed=1, window=10, windows="all", max_stride=1, crop=136),
        **dict(validation=None, validate_every=100, validate_windows=1, checkpoint_every=10_000),
        **dict(
            moving_first_frame=0.3, lr=5e-5, min_lr=None, adam="tensorflow", first_output="glorot", start=None, warp=1.0
        ),
        **dict(
            ping_pong=0.5,
            vgg=0.2,
            vgg_weights="vgg_19.ckpt",
            adversarial=0.01,
            layers=1.0,
            discriminator="merged",
            balance=0.4,
            quirks=[],
        ),
        **changes,
    }


def params(blocks: int, train: dict[str, Any] | None = None) -> Params:
    return Params(
        kind="tecogan",
        network={"blocks": blocks},
        train=train,
        checkpoint=None,
        predict={"tile": None, "quirks": []},
    )


def operators(case: Path, seed: int) -> None:
    a = arrays(case)
    x = {name: channels_first(value) for name, value in a.items() if name.endswith("_x")}
    flow = channels_first(a["warp_flow"])
    before = network.from_tensorflow(a["convt_w"]), network.from_tensorflow(a["conv4s2_w"])
    bottom, right = np.subtract(a["sympad_y"].shape, a["sympad_x"].shape)[1:3]
    for name, found in {
        "upscale_four": ops.resize_bilinear(x["up_x"], 4),
        "bicubic_four": ops.resize_bicubic(x["up_x"]),
        "tf_resize_bicubic_x4": ops.resize_bicubic(x["up_x"]),
        "resize_bilinear_x2": ops.resize_bilinear(x["up_x"], 2),
        "resize_bilinear_x4": ops.resize_bilinear(x["up_x"], 4),
        "warp_y": ops.warp(x["warp_x"], flow),
        "convt_y": ops.conv_transposed(x["convt_x"], before[0]),
        "conv4s2_y": ops.conv_stride2(x["conv4s2_x"], before[1]),
    }.items():
        close(found, a[name], 1e-5, name)
    close(ops.warp_gather(x["warp_x"], flow), a["warp_y"], 1e-5, "warp_gather")
    for name, found in {
        "s2d_y": ops.space_to_depth(x["s2d_x"]),
        "pool_y": torch.nn.functional.max_pool2d(x["pool_x"], 2),
        "sympad_y": ops.pad_symmetric(x["sympad_x"], int(bottom), int(right)),
        "triplet_y": ops.pack_triplets(x["triplet_x"]),
    }.items():
        close(found, a[name], 0, name)


def fnet(case: Path, seed: int) -> None:
    a = arrays(case)
    holder = torch.nn.ModuleDict({"fnet": network.FNet()})
    network.load_variables(holder, variables(case, seed))
    net = holder["fnet"]
    assert sum(w.numel() for w in net.parameters()) == 1_745_506
    with torch.no_grad():
        close(net(channels_first(a["x"])), a["flow"], 5e-5, "flow")
        odd = channels_first(a["x_odd"])
        close(net(odd), a["flow_odd"], 5e-5, "flow_odd")
        padded = net.flow(odd[:, :3], odd[:, 3:])
        close(padded, a["flow_odd_padded"], 5e-5, "flow_odd_padded")
        close(ops.resize_bilinear(4 * padded, 4), a["flow_odd_hr"], 2e-4, "flow_odd_hr")


def generator(case: Path, seed: int) -> None:
    a, state = arrays(case), variables(case, seed)
    holder = torch.nn.ModuleDict({"generator": network.Generator(blocks(state))})
    network.load_variables(holder, state)
    count = sum(w.numel() for w in holder.parameters())
    assert count == {10: 843_587, 16: 1_286_723}.get(blocks(state), count)
    with torch.no_grad():
        x = channels_first(a["x"])
        close(holder["generator"](x), a["y"], 2e-5, "y")
        close(holder["generator"].tiled(x, 8), a["y"], 2e-5, "y, in tiles")


def discriminator(case: Path, seed: int) -> None:
    a = arrays(case)
    holder = torch.nn.ModuleDict({"discriminator": network.Discriminator()})
    network.load_variables(holder, variables(case, seed))
    judge = holder["discriminator"].eval()  # batch statistics all the same
    assert sum(w.numel() for w in judge.parameters()) == 802_817
    with torch.no_grad():
        probability, layers = judge(channels_first(a["x"]))
    close(probability, a["prob"], 1e-5, "prob")
    for i, layer in enumerate(layers, 1):
        close(layer, a[f"layer{i}"], 5e-5, f"layer{i}")
    for block in ("disblock_1", "disblock_3", "disblock_5", "disblock_7"):
        for leaf in ("moving_mean", "moving_variance"):
            found = judge.get_submodule(block).BatchNorm.get_buffer(leaf).numpy()
            close(found, a[f"updated_{block}_{leaf}"], 5e-5, f"{block} {leaf}")


def inference(case: Path, seed: int) -> None:
    a, state = arrays(case), variables(case, seed)
    model = build(params(blocks(state)))
    model.load_published(state)
    frames = channels_first(a["frames_u8"] / np.float32(255))[:, None]

    def run(count: int, **options: Any) -> np.ndarray:
        return channels_last(torch.cat(list(model.upscale(frames[:count], **options))))

    n, short = len(frames), 4
    for options in ({}, {"tile": 16}):
        close(run(n, **options), a["sr"], 5e-5, f"sr {options}")
    close(run(short, published_dropping=True), a["sr_short"], 5e-5, "sr_short")
    fixed = run(short)
    assert len(fixed) == short
    close(fixed[-len(a["sr_short"]) :], a["sr_short"], 5e-5, "sr_short among all frames")


def degradation(case: Path, seed: int) -> None:
    a = arrays(case)
    kernel = grid.gaussian(grid.TRAINING_TAPS)
    close(np.outer(kernel, kernel), a["kernel9"], 1e-7, "kernel9")
    low, target = grid.degrade_crops(channels_first(a["hr_u8"] / np.float32(255)))
    close(low, a["lr_train"], 1e-5, "lr_train")
    close(2 * target - 1, a["target_train"], 1e-5, "target_train")
    close(grid.degrade_frame(a["hr_u8"].astype(np.uint8)), a["lr_infer"], 1e-5, "lr_infer")


def losses(case: Path, seed: int) -> None:
    a, state = arrays(case), variables(case, seed)
    low, target = channels_first(a["r_inputs"]), channels_first(a["r_targets"])
    frames = len(a["gen_output"]) // len(low)
    weights = {
        "ping_pong": 0.5 if frames == 2 * low.shape[1] - 1 else 0,
        "vgg": 0.2 if "loss/vgg_all" in a else 0,
        "adversarial": 0.01 if "loss/t_discrim_loss" in a else 0,
        "layers": 1 if "loss/D_layer_loss_sum" in a else 0,
    }
    p = params(blocks(state), recipe(window=low.shape[1], crop=4 * low.shape[-1] + 8, **weights))
    assert p.train is not None
    model = build(p)
    network.load_variables(model, state)
    vgg = SlimVgg(state) if p.train.vgg else None
    found = training.losses(model, low, target, p.train, vgg)

    close(found.output.flatten(0, 1), a["gen_output"], 5e-5, "gen_output")
    assert {f"loss/{name}" for name in found.values} == {name for name in a if name.startswith("loss/")}
    for name, value in found.values.items():
        close_relative(float(value), float(a[f"loss/{name}"]), 1e-4, name)
    if found.advantage is not None:
        balance = training.moving_average(model.balance, found.advantage)
        close_relative(float(balance), float(a["t_balance_after_step1"]), 1e-4, "t_balance_after_step1")
        content = training.moving_average(torch.zeros(()), found.values["l2_content_loss"])
        close_relative(float(content), float(a["avg_after_step1/l2_content_loss"]), 1e-4, "avg_after_step1")

    names = network.variables(model)
    objectives = {"generator": found.generator, "fnet": found.fnet, "discriminator": found.discriminator}
    seen = set()
    for part, objective in objectives.items():
        if objective is None:
            continue
        weights = {f"{part}.{key}": weight for key, weight in model.get_submodule(part).named_parameters()}
        gradients = torch.autograd.grad(objective, list(weights.values()), retain_graph=True)
        for key, gradient in zip(weights, gradients, strict=True):
            name = names[key]
            seen.add(f"gradnorm/{name}")
            close_relative(float(gradient.norm()), float(a[f"gradnorm/{name}"]), 2e-3, f"gradient norm of {name}")
            if f"grad/{name}" in a:
                wanted = network.from_tensorflow(a[f"grad/{name}"])
                error = float((gradient - wanted).norm() / wanted.norm())
                allowed = 5e-3 if name.startswith("tdiscriminator/") else 1e-3
                assert error <= allowed, f"gradient of {name}: relative error {error:.1e}, allowed {allowed:.0e}"
    assert seen == {name for name in a if name.startswith("gradnorm/")}


def scene(targets: np.ndarray, outputs: np.ndarray, distance: Distance | None) -> dict[str, np.ndarray]:
    """Return the published script's values of one scene, by our metrics: PSNR, SSIM, LPIPS (n - 4 each), tOF, tLP100 (n - 5).

    `targets`: (n, h, w, 3) uint8; `outputs`: (n or more, >= h, >= w, 3) uint8; `distance`: LPIPS, None leaves it and tLP100 out.
    """
    n, height, width = targets.shape[:3]
    top, left, rows, columns = clips.border_crop(height, width)

    def cropped(image: np.ndarray) -> np.ndarray:
        return image[top : top + rows, left : left + columns]

    values: dict[str, list[float]] = {name: [] for name in ("PSNR", "SSIM", "tOF")}
    if distance is not None:
        values.update(LPIPS=[], tLP100=[])
    before: tuple[np.ndarray, np.ndarray] | None = None
    for i in range(TRIM, n - TRIM):
        whole = targets[i], outputs[i, :height, :width]
        pair = cropped(whole[0]), cropped(whole[1])
        values["PSNR"].append(temporal.psnr_y(*pair))
        values["SSIM"].append(temporal.ssim_y(*pair))
        if distance is not None:
            values["LPIPS"].append(distance(_signed(pair[0]), _signed(pair[1])))
        if before is not None:
            values["tOF"].append(
                temporal.t_of(*(cropped(temporal.motion(a, b)) for a, b in zip(before, whole, strict=True)))
            )
            if distance is not None:
                steps = [distance(_signed(cropped(a)), _signed(b)) for a, b in zip(before, pair, strict=True)]
                values["tLP100"].append(temporal.t_lp(*steps))
        before = whole
    return {name: np.array(found) for name, found in values.items()}


def _signed(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(127.5) - 1


def averages(scenes: list[np.ndarray]) -> tuple[float, float]:
    """Return FolderAvg, the mean of the scenes' means, and FrameAvg, the mean of all their values pooled."""
    means = [np.mean(values.astype(np.float32)) for values in scenes]
    return float(np.mean(means)), float(np.mean(np.concatenate(scenes).astype(np.float32)))


def metrics(case: Path, seed: int) -> None:
    import lpips

    a = arrays(case)
    net = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False).eval()
    state = state_dict(case, seed)
    layers = dict(zip(range(5), (0, 3, 6, 8, 10), strict=True))
    for slice_, layer in layers.items():
        convolution = net.net.get_submodule(f"slice{slice_ + 1}.{layer}")
        convolution.load_state_dict({k: torch.from_numpy(state[f"features.{layer}.{k}"]) for k in ("weight", "bias")})

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        with torch.no_grad():
            return float(net(channels_first(first)[None], channels_first(second)[None]))

    def frames(folder: str) -> np.ndarray:
        names = clips.file_order(path.name for path in (case / folder).glob("*.png"))
        return np.stack([cv2.imread(str(case / folder / name))[..., ::-1] for name in names])

    targets = frames("gt")
    crop = clips.border_crop(*targets.shape[1:3])
    assert crop == tuple(int(n) for n in a["crop_yx_hw"])
    count = len(a["bicubic4/PSNR"]) + 2 * TRIM
    scenes = {
        "jpeg20": scene(targets, frames("jpeg20"), distance),
        "bicubic4": scene(targets[:count], frames("bicubic4")[:count], distance),
    }
    absolute = {"PSNR": 1e-4, "SSIM": 1e-5, "tOF": 1e-5}
    for metric in ("PSNR", "SSIM", "tOF", "LPIPS", "tLP100"):
        folder, frame = averages([values[metric] for values in scenes.values()])
        found = {f"{scene}/{metric}": values[metric] for scene, values in scenes.items()}
        found.update({f"folder_avg/{metric}": np.float32(folder), f"frame_avg/{metric}": np.float32(frame)})
        for name, value in found.items():
            allowed = absolute.get(metric) or 1e-3 * np.abs(a[name])
            assert np.shape(value) == a[name].shape
            assert (np.abs(value - a[name]) <= allowed).all(), f"{name}: {value}, published {a[name]}"


CASES: dict[str, Callable[[Path, int], None]] = {
    "tecogan_ops": operators,
    "tecogan_fnet": fnet,
    "tecogan_generator10": generator,
    "tecogan_generator16": generator,
    "tecogan_discriminator": discriminator,
    "tecogan_inference": inference,
    "tecogan_degradation": degradation,
    "tecogan_losses": losses,
    "tecogan_losses_nopp": losses,
    "tecogan_frvsr_losses": losses,
    "tecogan_metrics": metrics,
}
