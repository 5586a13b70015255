"""Loading of checkpoints whose keys must be a network's own: what does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.errors import RetakeError

if TYPE_CHECKING:
    from torch import Tensor, nn

NAMED = 4  # keys that a message names


def load(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Copy `state` into `network`; raises as `check`."""
    check(network, state, what)
    network.load_state_dict(dict(state))


def check(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Raise RetakeError, its message beginning with `what`, unless `state` is a state dict of this network."""
    if told := misfits(network, state):
        raise RetakeError(f"{what}; keys {told}")


def misfits(network: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Return which keys of a state dict are missing, unknown or of another shape; "" where all of them fit the network."""
    own = network.state_dict()
    problems = {
        "missing": [key for key in own if key not in state],
        "unknown": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(getattr(state[key], 'shape', ()))} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and getattr(state[key], "shape", None) != own[key].shape
        ],
    }
    return "; ".join(
        f"{len(keys)} {problem}: {', '.join(keys[:NAMED])}{', …' if len(keys) > NAMED else ''}"
        for problem, keys in problems.items()
        if keys
    )


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries under `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
