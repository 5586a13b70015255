"""VGG19 as TF-slim ships it (`vgg_19_2016_08_28`), for TecoGAN's perceptual loss: a cosine distance of features.

The network is the original Caffe one: RGB in 0..255 minus a mean. torchvision's VGG19 has other weights and other input,
its losses are not comparable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import RetakeError

if TYPE_CHECKING:
    from torch import Tensor

FILE = "vgg_19.ckpt"  # row of workflow/weights.csv
CONVOLUTIONS = (2, 2, 4, 4, 4)  # of the blocks 1 to 5
TAPS = (2, 3, 4, 5)  # blocks whose last convolution, after its ReLU, is compared
MEAN = (123.68, 116.78, 103.94)
EPSILON = 1e-12
NAMES = [
    f"vgg_19/conv{block}/conv{block}_{i}/{kind}"
    for block, count in enumerate(CONVOLUTIONS, 1)
    for i in range(1, count + 1)
    for kind in ("weights", "biases")
]


class SlimVgg:
    """The frozen features; no nn.Module, so that they enter no checkpoint, optimiser or DDP bucket.

    `state`: {TensorFlow variable: array or tensor in TensorFlow's layout}; the classifier and other entries are ignored.
    Raises RetakeError when convolutions are missing.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        import torch

        missing = [name for name in NAMES if name not in state]
        if missing:
            raise RetakeError(
                f"the VGG19 checkpoint lacks {len(missing)} of {len(NAMES)} variables: {', '.join(missing[:4])}: "
                f"give TF-slim's {FILE} (torchvision's VGG19 is another network)"
            )
        self.weights = {name: torch.as_tensor(state[name]).detach().float() for name in NAMES}
        for name, value in self.weights.items():
            if value.ndim == 4:
                self.weights[name] = value.permute(3, 2, 0, 1).contiguous()

    def to(self, device: Any) -> SlimVgg:
        """Move the weights to `device`."""
        self.weights = {name: weight.to(device) for name, weight in self.weights.items()}
        return self

    def features(self, images: Tensor) -> list[Tensor]:
        """Return conv2_2, conv3_4, conv4_4 and conv5_4 of (N, 3, H, W) RGB in [-1,1], each vector of channels scaled to 1."""
        import torch
        from torch.nn import functional

        x = (images + 1) / 2 * 255 - images.new_tensor(MEAN).view(1, 3, 1, 1)
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)  # the faster layout of CPU convolutions
        taps = []
        for block, count in enumerate(CONVOLUTIONS, 1):
            if block > 1:
                x = functional.max_pool2d(x, 2)
            for i in range(1, count + 1):
                name = f"vgg_19/conv{block}/conv{block}_{i}"
                x = functional.conv2d(x, self.weights[f"{name}/weights"], self.weights[f"{name}/biases"], padding=1)
                x = functional.relu_(x)
            if block in TAPS:
                vectors = x.float()
                taps.append(vectors / (vectors.square().sum(1, keepdim=True) + EPSILON).sqrt())
        return taps

    @staticmethod
    def distances(first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
        """Return 1 - mean cosine of two `features`, one value a layer."""
        return [1 - (a * b).sum(1).mean() for a, b in zip(first, second, strict=True)]
