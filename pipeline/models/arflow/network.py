"""PWCLite, the network of ARFlow (arXiv 2003.13045): frames in, flow at five scales out.

Names of modules are those of the published checkpoints, so that a published state dict is this network's own. The
cost volume has two forms with one result: `correlation_shifts` (81 shifted products) is the definition, `correlation`
(matrix products of tiles with their search windows) is what runs.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import RetakeError
from pipeline.losses.unflow import warp
from pipeline.models.arflow.convolution import Convolution, plain
from pipeline.models.base import for_cpu

RANGE = 4  # search range, pixels of a level
SIDE = 2 * RANGE + 1
VOLUME = SIDE**2  # channels of the cost volume
PYRAMID = (3, 16, 32, 64, 96, 128, 192)  # channels at full size, 1/2, ..., 1/64
LEVELS = 5  # the decoder works from 1/64 to 1/4
TILE = 16
HEAD = 0.1  # of the Kaiming start's layers that put out flow
STRIDE = 64  # sides must be multiples of it


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size (but for its stride), and a leaky ReLU of slope 0.1."""
    padding = (kernel - 1) * dilation // 2
    return nn.Sequential(
        Convolution(inputs, outputs, kernel, stride, padding, dilation), nn.LeakyReLU(0.1, inplace=True)
    )


def linear(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 3x3 convolution without activation."""
    return nn.Sequential(Convolution(inputs, outputs, 3, padding=1))


class Pyramid(nn.Module):
    """Image (B, 3, H, W) to features, coarsest first: 192 channels at 1/64, 128, 96, 64, 32 at 1/4."""

    def __init__(self) -> None:
        super().__init__()
        pairs = itertools.pairwise(PYRAMID)
        self.convs = nn.ModuleList(nn.Sequential(conv(i, o, stride=2), conv(o, o)) for i, o in pairs)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of the five decoder levels."""
        features = [for_cpu(image)]
        for stage in self.convs:
            features.append(stage(features[-1]))
        return features[:1:-1]


class ReducedEstimator(nn.Module):
    """Flow estimator whose layers see the two layers before them (the published choice)."""

    features = 32
    _kept: tuple[list[tuple[int, int]], list[Convolution]] | None = None  # of which weights, and what they became

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, 128), conv(128, 128)
        self.conv3, self.conv4, self.conv5 = conv(256, 96), conv(224, 64), conv(160, 32)
        self.predict_flow = linear(96, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, 32, h, w) and the flow's correction (B, 2, h, w)."""
        x1 = self.conv1(x)
        if plain(x1):
            return self._each_once(x1)
        x2 = self.conv2(x1)
        x3 = self.conv3(torch.cat([x1, x2], 1))
        x4 = self.conv4(torch.cat([x2, x3], 1))
        x5 = self.conv5(torch.cat([x3, x4], 1))
        return x5, self.predict_flow(torch.cat([x4, x5], 1))

    def _each_once(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, from conv1's features, and join none: each are convolved once, for all who read them."""
        older: Tensor | float = 0.0  # what the layer before has for the next one
        *hidden, last = self._shared()
        for layer, following in itertools.pairwise((*hidden, last)):
            own, ahead = layer(x).tensor_split([following.in_channels], 1)
            x, older = F.leaky_relu(own + older, 0.1, inplace=True), ahead
        return x, last(x) + older

    def _shared(self) -> list[Convolution]:
        """Return, for the features of conv1 to conv5, the convolution of both layers that read them, the next one's first.

        A convolution of joined features is the sum of one for each of them. Kept until weights change.
        """
        state = [(weight._version, weight.data_ptr()) for weight in self.parameters()]
        if self._kept is None or self._kept[0] != state:
            convs = (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5, self.predict_flow)
            layers: list[Any] = [conv[0] for conv in convs]
            shared = []
            with torch.inference_mode(False), torch.no_grad():
                for i, before in enumerate(layers[:-1]):
                    inputs = before.out_channels
                    following, *later = layers[i + 1 : i + 3]
                    weights = [following.weight[:, -inputs:], *(layer.weight[:, :inputs] for layer in later)]
                    biases = [following.bias, *(torch.zeros_like(layer.bias) for layer in later)]
                    both = nn.utils.skip_init(Convolution, inputs, sum(map(len, biases)), 3, padding=1)
                    both.weight, both.bias = nn.Parameter(for_cpu(torch.cat(weights))), nn.Parameter(torch.cat(biases))
                    shared.append(both)
            self._kept = state, shared
        return self._kept[1]


class DenseEstimator(nn.Module):
    """Flow estimator whose layers see all before them, the newest first."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        outputs = (128, 128, 96, 64, 32)
        for i, channels in enumerate(outputs):
            setattr(self, f"conv{i + 1}", conv(inputs + sum(outputs[:i]), channels))
        self.features = inputs + sum(outputs)
        self.conv_last = linear(self.features, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, inputs + 448, h, w) and the flow's correction (B, 2, h, w)."""
        for i in range(1, 6):
            x = torch.cat([self.get_submodule(f"conv{i}")(x), x], 1)
        return x, self.conv_last(x)


class Context(nn.Module):
    """Dilated convolutions that correct the flow from features and flow."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        layers = ((inputs, 128, 1), (128, 128, 2), (128, 128, 4), (128, 96, 8), (96, 64, 16), (64, 32, 1))
        self.convs = nn.Sequential(*(conv(i, o, dilation=d) for i, o, d in layers), linear(32, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the correction (B, 2, h, w)."""
        return self.convs(x)


class PWCLite(nn.Module):
    """The network for `views` 2 or 3 (the 3-view weights also serve five frames).

    `dense` takes the dense estimator; `upsample` brings the output from 1/4 to full size; `corners`: see `warp`.
    """

    def __init__(self, views: int, *, dense: bool = False, upsample: bool = True, corners: bool = True) -> None:
        super().__init__()
        self.views, self.upsample, self.corners = views, upsample, corners
        neighbours = views - 1
        estimator = DenseEstimator if dense else ReducedEstimator
        self.feature_pyramid_extractor = Pyramid()
        self.flow_estimators = estimator(32 + neighbours * (VOLUME + 2))
        self.context_networks = Context(neighbours * (self.flow_estimators.features + 2))
        self.conv_1x1 = nn.ModuleList(conv(channels, 32, kernel=1) for channels in PYRAMID[:1:-1])

    def forward(self, frames: Tensor, backward: bool = False) -> dict[str, Any]:
        """Return `flows_fw` (and `flows_bw`) of frames (B, n, 3, H, W) float32 in [0, 1], H and W multiples of 64.

        A list of flows, finest first, (B, 2, h, w) in pixels of their own scale: 1, 1/2, ..., 1/16, or 1/4, ..., 1/64
        without `upsample`. n = 2: first to second frame; `backward` adds second to first. n = 3: middle to next, and to
        previous. n = 5: lists of two such lists, [1 to 2, 2 to 3] and, with `backward`, [2 to 1, 3 to 2].
        Raises RetakeError for another n, or sides that are not multiples of 64.
        """
        count, height, width = frames.shape[1], *frames.shape[-2:]
        if (self.views == 2 and count != 2) or (self.views == 3 and count not in (3, 5)):
            takes = "2 frames" if self.views == 2 else "3 or 5 frames"
            raise RetakeError(
                f"this ARFlow network takes {takes}, {count} given: set models.*.network.frames to what is there"
            )
        if height % STRIDE or width % STRIDE:
            raise RetakeError(
                f"ARFlow takes sides that are multiples of {STRIDE}, not {width}x{height}: resize or pad the frames"
            )
        pyramid = self.feature_pyramid_extractor(frames.transpose(0, 1).flatten(0, 1))
        features = [list(levels) for levels in zip(*(level.chunk(count) for level in pyramid), strict=True)]
        if count == 2:
            if not backward:
                return {"flows_fw": self._pair(*features)}
            swapped = [level.roll(len(frames), 0) for level in pyramid]  # both directions as one batch
            both = [flow.chunk(2) for flow in self._pair(pyramid, swapped)]
            return {"flows_fw": [flow[0] for flow in both], "flows_bw": [flow[1] for flow in both]}
        if count == 3:
            following, previous = self._triple(*features)
            return {"flows_fw": following, "flows_bw": previous}
        (to2, _), (to3, back1) = self._triple(*features[:3]), self._triple(*features[1:4])
        five: dict[str, Any] = {"flows_fw": [to2, to3]}
        if backward:
            five["flows_bw"] = [back1, self._triple(*features[2:])[1]]
        return five

    def _pair(self, first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
        flow = _still(first[0])
        flows = []
        for level, (one, two) in enumerate(zip(first, second, strict=True)):
            if level:
                flow = double(flow)
                two = warp(two, flow, corners=self.corners)
            volume = F.leaky_relu(correlation(one, two), 0.1)
            features, change = self.flow_estimators(joined(volume, self.conv_1x1[level](one), flow))
            flow = flow + change
            flow = flow + self.context_networks(joined(features, flow))
            flows.append(flow)
        return self._finish(flows)

    def _triple(
        self, before: list[Tensor], middle: list[Tensor], after: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the flows of the middle frame to the next and to the previous one."""
        past = future = _still(middle[0])
        flows: tuple[list[Tensor], list[Tensor]] = ([], [])
        for level, (zero, one, two) in enumerate(zip(before, middle, after, strict=True)):
            if level:
                past, future = double(past), double(future)
                zero, two = warp(zero, past, corners=self.corners), warp(two, future, corners=self.corners)
            to_past, to_future = F.leaky_relu(correlation(one, zero), 0.1), F.leaky_relu(correlation(one, two), 0.1)
            own = self.conv_1x1[level](one)
            past_features, past_change = self.flow_estimators(joined(own, to_past, to_future, past, -future))
            future_features, future_change = self.flow_estimators(joined(own, to_future, to_past, future, -past))
            past, future = past + past_change, future + future_change
            past_change = self.context_networks(joined(past_features, future_features, past, -future))
            future_change = self.context_networks(joined(future_features, past_features, future, -past))
            past, future = past + past_change, future + future_change
            flows[0].append(future)
            flows[1].append(past)
        return self._finish(flows[0]), self._finish(flows[1])

    def _finish(self, flows: list[Tensor]) -> list[Tensor]:
        if self.upsample:
            flows = [F.interpolate(flow * 4, scale_factor=4, mode="bilinear", align_corners=True) for flow in flows]
        return flows[::-1]

    def start_kaiming(self) -> None:
        """Set Kaiming-normal weights and zero biases, as published code means to but never does.

        The published numbers come from the framework's default start; this one learns many times faster. The two layers
        that put out flow start at a tenth of that: at full strength flow would start at hundreds of pixels, where every
        pixel leaves the image, nothing counts as visible, and the photometric loss says nothing.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.1)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
                if layer.out_channels == 2:
                    layer.weight.data.mul_(HEAD)


def _still(features: Tensor) -> Tensor:
    """Return zero flow, at least in float32: sums in bfloat16 would be off by tenths of a pixel."""
    batch, _, height, width = features.shape
    return features.new_zeros(batch, 2, height, width, dtype=torch.promote_types(features.dtype, torch.float32))


def joined(*parts: Tensor) -> Tensor:
    """Return images joined along channels, in the layout that convolutions want: mixed layouts would be joined in planes."""
    return torch.cat([for_cpu(part) for part in parts], 1)


def double(flow: Tensor) -> Tensor:
    """Return flow (B, 2, h, w) at twice the size, in pixels of that size."""
    return F.interpolate(flow * 2, scale_factor=2, mode="bilinear", align_corners=True)


def correlation_shifts(one: Tensor, two: Tensor) -> Tensor:
    """Return the cost volume of features (B, C, h, w), (B, 81, h, w): the definition, one shifted product a channel.

    Channel (dy + 4) * 9 + (dx + 4) is the mean over C of one[y, x] * two[y + dy, x + dx], zero outside.
    """
    height, width = one.shape[-2:]
    padded = F.pad(two, (RANGE, RANGE, RANGE, RANGE))
    shifts = [padded[..., y : y + height, x : x + width] for y in range(SIDE) for x in range(SIDE)]
    return torch.stack([(one * shifted).mean(1) for shifted in shifts], dim=1)


def correlation(one: Tensor, two: Tensor) -> Tensor:
    """Return what `correlation_shifts` does, (B, 81, h, w), by tiled matrix products; half precision as float32."""
    if one.dtype in (torch.float16, torch.bfloat16) or two.dtype != one.dtype:
        one, two = one.float(), two.float()
    with torch.autocast(one.device.type, enabled=False):  # the sums over channels stay in float32
        return _Correlation.apply(one, two)


class _Correlation(torch.autograd.Function):
    """Cost volume of rows cut into tiles of T pixels.

    For a row offset dy, the products of a tile's T pixels with the T + 8 pixels of its search window are one small
    matrix product (T, C) x (C, T + 8), whose band of 9 diagonals holds the nine dx. Twice as many products as needed,
    but at a matrix product's speed, and nothing of size 81 x C is ever stored. Backward does the same with the band
    filled from the gradient. Rows lead the memory, so that the window tiles of another dy are another slice.
    """

    @staticmethod
    def forward(ctx: Any, one: Tensor, two: Tensor) -> Tensor:
        """Return the volume; only the two features are kept for backward."""
        ctx.save_for_backward(one, two)
        batch, _, height, width = one.shape
        tiles, windows, tile = _tiles(one, two)
        count = tiles.shape[2]
        volume = one.new_empty(batch, height, count, tile, VOLUME)  # pixel by pixel, as convolutions want it
        for dy in range(SIDE):
            product = torch.bmm(tiles.flatten(0, 2), windows[dy : dy + height].flatten(0, 2).transpose(1, 2))
            band = _band(product, tile).view(height, batch, count, tile, SIDE)
            volume[..., dy * SIDE : (dy + 1) * SIDE] = band.transpose(0, 1)
        volume = volume.flatten(2, 3)[:, :, :width].permute(0, 3, 1, 2)
        return volume.contiguous(memory_format=torch.channels_last)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of both features."""
        one, two = ctx.saved_tensors
        batch, channels, height, width = one.shape
        tiles, windows, tile = _tiles(one, two)
        count = tiles.shape[2]
        gradient = F.pad(gradient, (0, count * tile - width)).unflatten(3, (count, tile)).permute(2, 0, 3, 4, 1)
        to_tiles, to_windows = torch.zeros_like(tiles), torch.zeros_like(windows)
        product = one.new_zeros(height * batch * count, tile, tile + 2 * RANGE)
        band = _band(product, tile).view(height, batch, count, tile, SIDE)  # filling it leaves the rest of `product` 0
        for dy in range(SIDE):
            band.copy_(gradient[..., dy * SIDE : (dy + 1) * SIDE])
            rows = slice(dy, dy + height)
            to_tiles.flatten(0, 2).baddbmm_(product, windows[rows].flatten(0, 2))
            to_windows[rows].flatten(0, 2).baddbmm_(product.transpose(1, 2), tiles.flatten(0, 2))
        to_one = to_tiles.flatten(2, 3)[:, :, :width].permute(1, 3, 0, 2) / channels
        # Windows of neighbouring tiles overlap by 8 columns: their gradients are added where they meet.
        inner = to_windows[RANGE : RANGE + height]
        to_two = two.new_zeros(height, batch, count * tile + 2 * RANGE, channels)
        to_two[:, :, : count * tile] = inner[:, :, :, :tile].flatten(2, 3)
        for row in range(count):
            to_two[:, :, (row + 1) * tile : (row + 1) * tile + 2 * RANGE] += inner[:, :, row, tile:]
        return to_one, to_two[:, :, RANGE : RANGE + width].permute(1, 3, 0, 2)


def _tiles(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return tiles (h, B, n, T, C) of the first features, over C, windows (h+8, B, n, T+8, C) of the second, and T."""
    _, channels, _, width = one.shape
    tile = min(TILE, width)
    count = -(-width // tile)
    spare = count * tile - width
    tiles = F.pad(one, (0, spare)).permute(2, 0, 3, 1).unflatten(2, (count, tile)) / channels
    padded = F.pad(two, (RANGE, RANGE + spare, RANGE, RANGE)).permute(2, 0, 3, 1)
    windows = padded.unfold(2, tile + 2 * RANGE, tile).transpose(3, 4)
    return tiles.contiguous(), windows.contiguous(), tile


def _band(product: Tensor, tile: int) -> Tensor:
    """Return a view of the 9 diagonals of products (N, T, T + 8), (N, T, 9): row t holds columns t to t + 8."""
    row = tile + 2 * RANGE
    return product.as_strided((product.shape[0], tile, SIDE), (tile * row, row + 1, 1))
