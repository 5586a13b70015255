"""I3D (Carreira and Zisserman 2017), the network of FVD and DTFVD: Inception-v1 with 3-D kernels.

One topology, of which several ports gave published numbers:

* `kinetics()`: the PyTorch port whose file is model_rgb.pth; 400 classes. i2v-cINN logs its FVD in training with it.
* `tensorflow()`: the same weights' layout with TensorFlow's own padding, for variables read from a TensorFlow
  checkpoint (`from_tensorflow`): the network of the FVD that papers print.
* `textures(length)`: i2v-cINN's network trained on dynamic textures; 18 classes; DTFVD.
* `videogpt()`: the port of VideoGPT's FVD, file i3d_pretrained_400.pt; `scripted(state)`: StyleGAN-V's, the tensors of
  i3d_torchscript.pt. No specification covers these two and neither file was at hand: TensorFlow's padding is theirs because they
  are conversions of the TF-hub network, and the names are checked when they are loaded.

They differ in padding, BatchNorm's epsilon and names. Videos are (N, 3, T, 224, 224); what range they are in is the
score's matter, see `networks/videos.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import RetakeError

# Width of the four branches of each mixed unit: 1x1, (1x1, 3x3x3), (1x1, 3x3x3), pool and 1x1
MIXED = {
    "3b": (64, 96, 128, 16, 32, 32), "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64), "4c": (160, 112, 224, 24, 64, 64), "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64), "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128), "5c": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
BEFORE = {"3b": 192, "4b": 480, "5b": 832}  # channels that enter the first unit of a stage
FEATURES = 1024
# Stems by name: kernel, stride, channels in, channels out; pools by the unit that they precede: kernel, stride
STEM = {"1a_7x7": (7, 2, 3, 64), "2b_1x1": (1, 1, 64, 64), "2c_3x3": (3, 1, 64, 192)}
POOLS = {
    "2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "3b": ((1, 3, 3), (1, 2, 2)),
    "4b": ((3, 3, 3), (2, 2, 2)),
    "5b": ((2, 2, 2), (2, 2, 2)),
}


@dataclass(frozen=True)
class Port:
    """What differs between the ports."""

    same: str  # padding: "tensorflow" from the remainder on every axis, "time" on the time axis alone
    epsilon: float
    classes: int
    length: int  # time steps of the average pool
    names: dict[str, str] = field(default_factory=dict)


KINETICS = {
    "unit": "conv3d_{}", "mixed": "mixed_{}", "norm": "batch3d", "top": "conv3d_0c_1x1.conv3d",
    "branches": "branch_0 branch_1.0 branch_1.1 branch_2.0 branch_2.1 branch_3.1",
}  # fmt: skip
TEXTURES = {
    "unit": "Conv3d_{}", "mixed": "Mixed_{}", "norm": "bn", "top": "logits.conv3d",
    "branches": "b0 b1a b1b b2a b2b b3b",
}  # fmt: skip


def kinetics() -> I3D:
    """Return the PyTorch port, without weights; `load` gives them."""
    return I3D(Port("time", 1e-3, 400, 2, KINETICS))


def tensorflow() -> I3D:
    """Return the network with TensorFlow's padding, without weights; those of `from_tensorflow` fit."""
    return I3D(Port("tensorflow", 1e-3, 400, 2, KINETICS))


def textures(length: int) -> I3D:
    """Return DTFVD's network for clips of 16 or 32 frames, without weights."""
    if length not in (16, 32):
        raise RetakeError(f"DTFVD has networks for 16 and for 32 frames, not {length}")
    return I3D(Port("tensorflow", 1e-5, 18, length // 8, TEXTURES))


def videogpt() -> I3D:
    """Return the port whose file is i3d_pretrained_400.pt, without weights."""
    return I3D(Port("tensorflow", 1e-3, 400, 2, TEXTURES))


def scripted(state: dict[str, Tensor], name: str) -> I3D:
    """Return the network with the tensors of a TorchScript archive, whatever module they lie in there.

    Raises RetakeError, which lists their names, when they are named as no port here names them.
    """
    for names in (KINETICS, TEXTURES):
        first = f"{names['unit'].format('1a_7x7')}.conv3d.weight"
        prefix = next((key.removesuffix(first) for key in state if key.endswith(first)), None)
        if prefix is not None:
            own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            return I3D(Port("tensorflow", 1e-3, 400, 2, names)).load(own, name)
    raise RetakeError(f"{name}: its {len(state)} tensors are named as no known I3D: {', '.join(list(state)[:8])}, …")


def padding(size: int, kernel: int, stride: int, remainder: bool) -> tuple[int, int]:
    """Return the padding before and after an axis.

    TensorFlow's SAME takes the remainder of the size by the stride into account; without, kernel less stride.
    """
    total = max(kernel - (size % stride or stride if remainder else stride), 0)
    return total // 2, total - total // 2


class I3D(nn.Module):
    """The network; submodules carry the published names, so that published state dicts load as they are."""

    def __init__(self, port: Port) -> None:
        super().__init__()
        self.port = port
        for name, (kernel, stride, before, after) in STEM.items():
            self._add(port.names["unit"].format(name), _Unit(port, before, after, kernel, stride))
        self.branches = port.names["branches"].split()
        channels = 0
        for name, widths in MIXED.items():
            channels = BEFORE.get(name, channels)
            mixed = port.names["mixed"].format(name)
            shapes = [(channels, widths[0], 1), (channels, widths[1], 1), (widths[1], widths[2], 3),
                      (channels, widths[3], 1), (widths[3], widths[4], 3), (channels, widths[5], 1)]  # fmt: skip
            for branch, (before, after, kernel) in zip(self.branches, shapes, strict=True):
                self._add(f"{mixed}.{branch}", _Unit(port, before, after, kernel, 1))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self._add(port.names["top"], nn.Conv3d(channels, port.classes, 1))
        self.eval().requires_grad_(False)

    def _add(self, name: str, module: nn.Module) -> None:
        parent: nn.Module = self
        *folders, last = name.split(".")
        for folder in folders:
            if not hasattr(parent, folder):
                parent.add_module(folder, nn.Module())
            parent = getattr(parent, folder)
        parent.add_module(last, module)

    def load(self, state: dict[str, Tensor], name: str) -> I3D:
        """Take published weights; raise RetakeError, which names the file and the keys, when they are another network's."""
        own = self.state_dict()
        counters = {key for key in own if key.endswith("num_batches_tracked")}  # absent in old files, and never read
        wrong = sorted(
            (set(own) ^ set(state)) - counters | {k for k in set(own) & set(state) if own[k].shape != state[k].shape}
        )
        if wrong:
            shown = ", ".join(wrong[:6]) + (f" and {len(wrong) - 6} more" if len(wrong) > 6 else "")
            raise RetakeError(f"{name} is not this I3D: missing, unknown or of another shape: {shown}")
        self.load_state_dict({**{key: own[key] for key in counters}, **state})
        return self

    def stages(self, video: Tensor) -> dict[str, Tensor]:
        """Return what each unit, pool ("pool" and the next unit's name) and the average pool ("average") give."""
        x, outputs = video, {}
        names = self.port.names
        for name in (*STEM, *MIXED):
            if name in POOLS:
                x = outputs[f"pool {name}"] = self._pool(x, *POOLS[name])
            x = outputs[name] = (
                self.get_submodule(names["unit"].format(name))(x)
                if name in STEM
                else self._mix(names["mixed"].format(name), x)
            )
        if x.shape[2] < self.port.length or min(x.shape[3:]) < 7:
            raise RetakeError(
                f"I3D: a video of {video.shape[2]} frames of {video.shape[4]}x{video.shape[3]} px is too short or small: "
                f"it needs more than {8 * (self.port.length - 1)} frames of 224x224"
            )
        outputs["average"] = functional.avg_pool3d(x, (self.port.length, 7, 7), 1)
        return outputs

    def features(self, video: Tensor) -> Tensor:
        """Return the average pool's output at its first time step and place, (N, 1024)."""
        return self.stages(video)["average"][:, :, 0, 0, 0]

    def scores(self, video: Tensor) -> Tensor:
        """Return the class scores, mean over time, (N, classes)."""
        return self.scores_of(self.stages(video))

    def scores_of(self, stages: dict[str, Tensor]) -> Tensor:
        """Return the class scores of what `stages` found."""
        return self.get_submodule(self.port.names["top"])(stages["average"]).mean(2)[:, :, 0, 0]

    def _mix(self, name: str, x: Tensor) -> Tensor:
        unit = [self.get_submodule(f"{name}.{branch}") for branch in self.branches]
        pooled = self._pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([unit[0](x), unit[2](unit[1](x)), unit[4](unit[3](x)), unit[5](pooled)], 1)

    def _pool(self, x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        # The zeros are compared like any value, which is harmless behind a ReLU.
        padded = _pad(x, kernel, stride, self.port.same)
        return functional.max_pool3d(padded, kernel, stride, ceil_mode=self.port.same == "time")


def _pad(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], same: str) -> Tensor:
    sides = [
        padding(size, k, s, same == "tensorflow" or axis == 0)
        for axis, (size, k, s) in enumerate(zip(x.shape[2:], kernel, stride, strict=True))
    ]
    flat = [n for pair in reversed(sides) for n in pair]
    return functional.pad(x, flat) if any(flat) else x


class _Unit(nn.Module):
    def __init__(self, port: Port, before: int, after: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.same, self.kernel, self.stride, self.norm = port.same, (kernel,) * 3, (stride,) * 3, port.names["norm"]
        self.conv3d = nn.Conv3d(before, after, kernel, stride, bias=False)
        self.add_module(self.norm, nn.BatchNorm3d(after, eps=port.epsilon))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(_pad(x, self.kernel, self.stride, self.same))
        return functional.relu(getattr(self, self.norm)(x))


def from_tensorflow(variables: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the weights of a TensorFlow checkpoint under the names of `tensorflow()`.

    `variables`: those of `pipeline.sources.tensorflow`, kernels [kt, kh, kw, cin, cout]; scopes in front of a name are
    passed over. Raises RetakeError, which lists the names that are missing. The normalisation has no scale: 1.
    """
    units = {f"conv3d_{name}": f"Conv3d_{name}" for name in STEM}
    branches = ["Branch_0/Conv3d_0a_1x1", "Branch_1/Conv3d_0a_1x1", "Branch_1/Conv3d_0b_3x3",
                "Branch_2/Conv3d_0a_1x1", "Branch_2/Conv3d_0b_3x3", "Branch_3/Conv3d_0b_1x1"]  # fmt: skip
    for name in MIXED:
        for ours, theirs in zip(KINETICS["branches"].split(), branches, strict=True):
            if name == "5b" and theirs == "Branch_2/Conv3d_0b_3x3":
                theirs = "Branch_2/Conv3d_0a_3x3"  # the one unit that is named otherwise
            units[f"mixed_{name}.{ours}"] = f"Mixed_{name}/{theirs}"
    leaves = {"conv3d.weight": "conv_3d/w", "batch3d.bias": "batch_norm/beta",
              "batch3d.running_mean": "batch_norm/moving_mean",
              "batch3d.running_var": "batch_norm/moving_variance"}  # fmt: skip
    sources = {f"{ours}.{leaf}": f"{theirs}/{tail}" for ours, theirs in units.items() for leaf, tail in leaves.items()}
    sources |= {f"{KINETICS['top']}.{leaf}": f"Logits/Conv3d_0c_1x1/conv_3d/{leaf[0]}" for leaf in ("weight", "bias")}
    state, missing = {}, []
    for ours, tail in sources.items():
        outputs = [name for name in variables if name == tail or name.endswith(f"/{tail}")]
        if len(outputs) != 1:
            missing.append(tail)
            continue
        value = variables[outputs[0]]
        array = (
            value.transpose(4, 3, 0, 1, 2) if value.ndim == 5 and ours.endswith("conv3d.weight") else value.reshape(-1)
        )
        state[ours] = torch.from_numpy(np.ascontiguousarray(array))
        if ours.endswith("batch3d.bias"):
            state[ours.removesuffix("bias") + "weight"] = torch.ones(array.size)
    if missing:
        raise RetakeError(
            f"no I3D: the checkpoint lacks (or has twice) {', '.join(missing[:6])} of {len(sources)} variables"
        )
    return state
