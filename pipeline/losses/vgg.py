"""VGG19 perceptual loss: weighted L1 between features of two images (DMVFN's second loss).

The network is torchvision's VGG19 with its ImageNet weights (`vgg19-dcbb9e9d.pth`), frozen, up to relu5_1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import RetakeError

if TYPE_CHECKING:
    from torch import Tensor

FILE = "vgg19-dcbb9e9d.pth"  # row of workflow/weights.csv
LAYERS = 30
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
POOLS = (4, 9, 18, 27)
# relu1_1, relu2_1, relu3_1, relu4_1, relu5_1 and what their differences weigh
TAPS = {1: 1 / 2.6, 6: 1 / 4.8, 11: 1 / 3.7, 20: 1 / 5.6, 29: 10 / 1.5}
SCALE = 0.1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Vgg:
    """The frozen features; no nn.Module, so that they enter no checkpoint, optimiser or DDP bucket.

    `state`: torchvision's VGG19 state dict; keys `features.N.weight` and `.bias`, those of the classifier are ignored.
    Raises RetakeError when it is another network's.
    """

    def __init__(self, state: dict[str, Tensor]) -> None:
        names = [f"features.{layer}.{kind}" for layer in CONVOLUTIONS for kind in ("weight", "bias")]
        missing = [name for name in names if name not in state]
        if missing:
            raise RetakeError(f"{FILE} is not torchvision's VGG19: it lacks {', '.join(missing[:4])}. Fetch it again")
        self.weights = {name: state[name].detach().float() for name in names}

    def to(self, device: object) -> Vgg:
        """Move the weights to `device`."""
        self.weights = {name: weight.to(device) for name, weight in self.weights.items()}  # type: ignore[call-overload]
        return self

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the five taps of (N, 3, H, W) images in [0,1]. Statistics go to channels in the order given."""
        from torch.nn import functional

        x = (images - images.new_tensor(MEAN).view(1, 3, 1, 1)) / images.new_tensor(STD).view(1, 3, 1, 1)
        taps = []
        for layer in range(LAYERS):
            if layer in CONVOLUTIONS:
                x = functional.conv2d(
                    x, self.weights[f"features.{layer}.weight"], self.weights[f"features.{layer}.bias"], padding=1
                )
            elif layer in POOLS:
                x = functional.max_pool2d(x, 2)
            else:
                x = functional.relu(x)
            if layer in TAPS:
                taps.append(x.float())
        return taps

    def terms(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the five weighted terms of the loss, (5,); the loss is their sum. No gradient reaches the target."""
        import torch

        with torch.no_grad():
            target_taps = self.features(target)
        pairs = zip(TAPS.values(), self.features(prediction), target_taps, strict=True)
        return torch.stack([SCALE * weight * (a - b).abs().mean() for weight, a, b in pairs])
