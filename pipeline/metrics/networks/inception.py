"""The Inception of FID: pytorch-fid's graph, with weights of ours instead of its own download."""

from __future__ import annotations

from typing import Any
from unittest import mock

from torch import Tensor

from pipeline.errors import RetakeError


def build(state: dict[str, Tensor], *, normalise: bool = True) -> Any:
    """Return the network: (N, 3, H, W) in [0,1], in [-1,1] with `normalise` False -> [(N, 2048, 1, 1)].

    Raises RetakeError when `state` is another network's.
    """
    from pytorch_fid import inception

    # The package loads its weights while it builds the graph; the graph is all that is wanted of it.
    with mock.patch.object(inception, "load_state_dict_from_url", return_value=state):
        try:
            network = inception.InceptionV3([3], normalize_input=normalise)
        except RuntimeError as error:
            raise RetakeError(
                f"these weights are not pytorch-fid's Inception: {str(error).splitlines()[-1].strip()}"
            ) from None
    return network.eval()
