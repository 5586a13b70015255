"""Parity with ARFlow's published network, losses and transforms: the checks that tests/test_parity.py runs.

A check takes a case's folder and the seed of its weights; tolerances are those of the case's README.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from golden.fill import state_dict

from pipeline.losses import unflow
from pipeline.metrics import flow_errors
from pipeline.models.arflow import published, transform
from pipeline.models.arflow.network import PWCLite, correlation, correlation_shifts
from pipeline.store.flow import read_kitti

Arrays = dict[str, np.ndarray]

TERNARY = {"l1": 0.0, "ssim": 0.0, "ternary": 1.0}
MIXED = {"l1": 0.15, "ssim": 0.85, "ternary": 0.0}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "sky0": {**MIXED, "occlusion": "range_map", "order": 2, "smooth": 75.0},
    "sky1": {**TERNARY, "occlusion": "forward_backward", "order": 2, "smooth": 75.0},
    "sintel1": {**TERNARY, "occlusion": "forward_backward", "order": 1, "smooth": 50.0},
    "sintel0": {**MIXED, "occlusion": "range_map", "order": 1, "smooth": 50.0},
    "ternary_back": {**TERNARY, "occlusion": "range_map", "order": 2, "smooth": 75.0},
    "sintel_back": {**TERNARY, "occlusion": "range_map", "order": 1, "smooth": 50.0},
}
WATCHED = (
    "feature_pyramid_extractor.convs.0.0.0.weight",
    "conv_1x1.2.0.weight",
    "flow_estimators.conv1.0.weight",
    "context_networks.convs.6.0.bias",
)


def load(case: Path) -> Arrays:
    with np.load(case / "case.npz") as file:
        return {name: file[name] for name in file.files}


def network(case: Path, seed: int, views: int, dense: bool) -> PWCLite:
    net = PWCLite(views, dense=dense)
    net.load_state_dict({key: torch.from_numpy(value) for key, value in state_dict(case, seed).items()})
    return net


def frames(arrays: Arrays) -> torch.Tensor:
    return torch.from_numpy(arrays["images"]).permute(0, 1, 4, 2, 3).float() / 255


def close(actual: Any, expected: np.ndarray, tolerance: float, what: str) -> None:
    actual = np.asarray(actual.detach() if isinstance(actual, torch.Tensor) else actual, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    error = np.abs(actual - expected).max()
    assert error <= tolerance, f"{what}: off by {error:.3g}, at most {tolerance:.3g}"


def near(actual: Any, expected: np.ndarray, tolerance: float, what: str) -> None:
    """Assert a relative tolerance, value by value."""
    actual = np.asarray(actual, np.float64)
    error = np.abs(actual - expected) / np.maximum(np.abs(expected), 1e-12)
    assert error.max() <= tolerance, f"{what}: {actual} instead of {expected}"


def same_mask(actual: torch.Tensor, expected: np.ndarray, what: str) -> None:
    share = float((actual.numpy() != expected).mean())
    assert share <= 1e-3, f"{what}: {share:.2%} of the pixels differ"


def numbers(terms: unflow.Terms) -> list[float]:
    return [float(x.detach()) for x in (terms.total, terms.photometric, terms.smooth, terms.flow)]


def norm(gradient: torch.Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.double().square().sum().sqrt())


def pair(case: Path, seed: int, dense: bool) -> None:
    arrays = load(case)
    images = frames(arrays)
    net = network(case, seed, 2, dense)
    for corners, name in ((True, "ac1"), (False, "ac0")):
        net.corners, net.upsample = corners, True
        flows = net(images, backward=True)
        for key, part in (("fw", "flows_fw"), ("bw", "flows_bw")):
            for level, flow in enumerate(flows[part]):
                if corners or level == 0:  # the other levels are stored for one convention
                    close(flow, arrays[f"flow_{key}{level}_{name}"], 2e-4, f"flow_{key}{level}_{name}")
        net.upsample = False
        with torch.no_grad():
            raw = net(images)["flows_fw"]
        close(raw[0], arrays[f"raw_fw0_{name}"], 2e-4, f"raw_fw0_{name}")
        close(raw[4], arrays[f"raw_fw4_{name}"], 2e-4, f"raw_fw4_{name}")
        both = [torch.cat(two, 1) for two in zip(flows["flows_fw"], flows["flows_bw"], strict=True)]
        for config in ("sky0", "ternary_back", "sintel_back"):
            what = f"{config}_{name}"
            terms = unflow.unsupervised(both, images[:, 0], images[:, 1], **CONFIGURATIONS[config], corners=corners)
            near(numbers(terms), arrays[f"loss_{what}"], 1e-4, f"loss_{what}")
            for image in (1, 2):
                close(
                    terms.visible[0][:, image - 1].mean(),
                    arrays[f"nonocc{image}_mean_{what}"],
                    1e-3,
                    f"nonocc{image}_{what}",
                )
            net.zero_grad()
            terms.total.backward(retain_graph=True)
            near(
                [norm(net.get_parameter(key).grad) for key in WATCHED],
                arrays[f"gradnorm_{what}"],
                1e-2,
                f"gradnorm_{what}",
            )


def multi_view(case: Path, seed: int) -> None:
    arrays = load(case)
    images = frames(arrays)
    net = network(case, seed, 3, False)
    for corners, name in ((True, "ac1"), (False, "ac0")):
        net.corners = corners
        with torch.no_grad():
            three, five = net(images[:, :3]), net(images, backward=True)
        for key, part in (("fw", "flows_fw"), ("bw", "flows_bw")):
            for level, flow in enumerate(three[part]):
                if corners or level == 0:
                    close(flow, arrays[f"f3_{key}{level}_{name}"], 2e-4, f"f3_{key}{level}_{name}")
            for flows, which in zip(five[part], {"fw": ("12", "23"), "bw": ("21", "32")}[key], strict=True):
                close(flows[0], arrays[f"f5_{key}_{which}_{name}"], 2e-4, f"f5_{key}_{which}_{name}")


def operators(case: Path, seed: int) -> None:
    arrays = load(case)
    tensor = {key: torch.from_numpy(value) for key, value in arrays.items() if value.dtype in (np.float32, np.uint8)}
    images = frames(arrays)
    first, second = images[:, 0], images[:, 1]
    there, back = tensor["flow12"], tensor["flow21"]

    for volume in (correlation, correlation_shifts):
        close(volume(tensor["corr_x1"], tensor["corr_x2"]), arrays["corr"], 1e-5, f"corr by {volume.__name__}")
    close(unflow.range_map(back), arrays["range_map"], 1e-5, "range_map")
    same_mask(unflow.unreached(back), arrays["occ_back_th0p2"], "occ_back_th0p2")
    close(unflow.ssim_distance(first[:1], second[:1]), arrays["ssim_dist"], 1e-5, "ssim_dist")
    close(unflow.ternary_distance(first[:1], second[:1]), arrays["ternary_dist"], 1e-5, "ternary_dist")
    for order in (1, 2):
        near(unflow.smoothness_of(there, first, order), arrays[f"smooth{order}"], 1e-4, f"smooth{order}")

    for corners, name in ((True, "ac1"), (False, "ac0")):
        for padding in ("border", "zeros"):
            warped = unflow.warp(second[:1], there[:1], corners=corners, padding=padding)
            close(warped, arrays[f"warp_{padding}_{name}"], 1e-5, f"warp_{padding}_{name}")
        same_mask(unflow.inconsistent(there, back, corners), arrays[f"occ_bidir_{name}"], f"occ_bidir_{name}")
        for config in ("sky0", "sky1", "sintel0", "sintel1"):
            what = f"{config}_{name}"
            flows = [torch.cat([there, back], 1), *(tensor[f"pyramid{i}"] for i in range(1, 5))]
            flows = [flow.clone().requires_grad_() for flow in flows]
            terms = unflow.unsupervised(flows, first, second, **CONFIGURATIONS[config], corners=corners)
            near(numbers(terms), arrays[f"loss_{what}"], 1e-4, f"loss_{what}")
            means = np.array([[float(mask[:, i].mean()) for mask in terms.visible] for i in (0, 1)])
            close(means, arrays[f"nonocc_mean_{what}"], 1e-3, f"nonocc_mean_{what}")
            terms.total.backward()
            near([norm(flow.grad) for flow in flows], arrays[f"gradnorm_{what}"], 1e-4, f"gradnorm_{what}")

    height, width = arrays["resize_flow_out"].shape[-2:]
    close(transform.resize_flow(there[:1], height, width), arrays["resize_flow_out"], 1e-5, "resize_flow_out")
    picture = published.picture(arrays["flow12"][0].transpose(1, 2, 0))
    close(picture, arrays["flow_image"], 1, "flow_image")
    source = images[0, 0] * 255
    for name in ("zoom_up", "zoom_down"):
        height, width = arrays[name].shape[:2]
        zoomed = transform.resize(source, height, width).permute(1, 2, 0)
        close(zoomed, arrays[name], 1e-4, name)

    evaluation(arrays)
    kitti_file(arrays)
    ar_step(arrays, first, second, there, back)


def evaluation(arrays: Arrays) -> None:
    truth, prediction = arrays["eval_gt4"], arrays["eval_pred"]
    found = flow_errors.kitti(prediction, truth[..., :2], truth[..., 2] > 0, truth[..., 3] > 0)
    near([found[key] for key in ("epe", "epe_noc", "epe_occ", "f1")], arrays["eval_result"], 1e-5, "eval_result")
    near(
        [flow_errors.endpoint_error(prediction, truth[..., :2]).mean()],
        arrays["eval_result_dense"],
        1e-5,
        "eval_result_dense",
    )


def kitti_file(arrays: Arrays) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "flow.png"
        assert cv2.imwrite(str(path), arrays["kitti_png_bgr"].astype(np.uint16))
        flow = read_kitti(path)
    valid = np.isfinite(flow).all(-1)
    assert (valid == (arrays["kitti_valid"][..., 0] > 0)).all()
    close(np.where(valid[..., None], flow, 0), arrays["kitti_flow"], 1e-6, "kitti_flow")


def ar_step(arrays: Arrays, first: torch.Tensor, second: torch.Tensor, there: torch.Tensor, back: torch.Tensor) -> None:
    plain = transform.transform(arrays["ar_params_global"])
    one, two = plain, transform.transform(arrays["ar_params_relative"]) @ plain
    mirror = np.diag([-1.0, 1.0, 1.0])
    one, two = (np.stack([t[0], mirror @ t[1], *t[2:]]) for t in (one, two))
    close(one[:, :2].reshape(-1, 6), arrays["ar_theta1"], 1e-5, "ar_theta1")
    close(two[:, :2].reshape(-1, 6), arrays["ar_theta2"], 1e-5, "ar_theta2")
    assert (transform.outside(one) == arrays["ar_invalid"][:, 0].astype(bool)).all()
    close(transform.move_image(first, one), arrays["ar_img1"], 2e-4, "ar_img1")
    close(transform.move_image(second[:1], two[:1]), arrays["ar_img2"], 2e-4, "ar_img2")
    close(transform.move_flow(there, one, two), arrays["ar_flow"], 2e-4, "ar_flow")
    close(transform.move_image(1 - unflow.unreached(back), one), arrays["ar_mask"], 2e-4, "ar_mask")


CASES: dict[str, Callable[[Path, int], None]] = {
    "arflow": lambda case, seed: pair(case, seed, dense=False),
    "arflow_dense": lambda case, seed: pair(case, seed, dense=True),
    "arflow_mv": multi_view,
    "arflow_ops": operators,
}
