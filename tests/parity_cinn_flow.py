"""Parity of i2v-cINN's conditional flow and conditioning auto-encoder with the published networks.

`CASES`: {case folder's name: function of (folder, seed) that asserts}. Sizes are read from the cases.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from golden.fill import state_dict
from torch import Tensor

from pipeline.models import published
from pipeline.models.cinn.flow import Block, ConditionalFlow, likelihood, one_hot
from pipeline.models.cinn_ae import Network
from pipeline.models.cinn_ae.network import Decoder, Encoder
from pipeline.models.cinn_ae.training import divergence


def arrays(case: Path) -> dict[str, Tensor]:
    with np.load(case / "case.npz") as data:
        return {name: torch.from_numpy(np.asarray(data[name])) for name in data.files}


def weights(case: Path, seed: int) -> dict[str, Tensor]:
    """Return the case's weights under their published keys, with the dtypes of its buffers."""
    return {key: torch.from_numpy(np.asarray(value)) for key, value in state_dict(case, seed).items()}


def close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, published {tuple(expected.shape)}"
    error = float((actual.detach().double() - expected.double()).abs().max())
    assert error <= tolerance, f"{what}: off by {error:.2e}, allowed {tolerance:.0e}"


def flow_of(state: dict[str, Tensor], condition: int, control: bool) -> ConditionalFlow:
    """Return the flow of these weights, its sizes read from them."""
    layers = [key for key in state if key.startswith("sub_layers.0.coupling.s.0.main.") and key.endswith(".weight")]
    flow = ConditionalFlow(
        state["sub_layers.0.norm_layer.loc"].shape[1],
        condition,
        blocks=sum(key.endswith(".norm_layer.loc") for key in state),
        width=len(state["sub_layers.0.coupling.s.0.main.0.weight"]),
        depth=len(layers) - 2,
        control=control,
    )
    flow.load_published(state)
    return flow.eval()


def conditional_flow(case: Path, seed: int) -> None:
    a = arrays(case)
    condition, control = a["embedding"], "position" in a
    if control:
        close(one_hot(a["position"]), a["position_onehot"], 0, "position_onehot")
        condition = torch.cat([condition, one_hot(a["position"])], 1)
    flow = flow_of(weights(case, seed), condition.shape[1], control)
    with torch.no_grad():
        residual, logdet = flow(a["z"], condition)
        loss = likelihood(residual, logdet)
        steps, x, total = [], a["z"], torch.zeros(len(condition))
        for block in flow.sub_layers:
            x, part = block(x, condition)
            total = total + part
            steps.append((x, total))
        for name, actual in {
            "residual": residual,
            "logdet": logdet,
            "cumulative_logdet": torch.stack([total for _, total in steps]),
            "after_first_block": steps[0][0],
            "z_reconstructed": flow.inverse(a["residual"], condition),
            "z_from_nu": flow.inverse(a["nu"], condition),
            "nll_mean": loss["nll_loss"],
            "loss": loss["loss"],
            "true_logdet_first_sample": flow(a["z"], condition, exact=True)[1][0],
        }.items():
            close(actual, a[name], 1e-4, name)
        close(flow.inverse(residual, condition), a["z"], 1e-4, "inverse of forward")
    activation_norm(a)


def activation_norm(a: dict[str, Tensor]) -> None:
    """Check the data-dependent start of a fresh ActNorm, as the flow makes it in evaluation mode."""
    block = Block(a["actnorm_input"].shape[1], condition=1, width=1, depth=0, alone=False).eval()
    output, logdet = block.normalised(a["actnorm_input"])
    close(block.norm_layer.loc.flatten(), a["actnorm_loc"], 1e-4, "actnorm_loc")
    close(block.norm_layer.scale.flatten(), a["actnorm_scale"], 1e-4, "actnorm_scale")
    close(output, a["actnorm_output"], 1e-4, "actnorm_output")
    close(logdet.expand(len(output)), a["actnorm_logdet"], 1e-4, "actnorm_logdet")


def auto_encoder(case: Path, seed: int) -> None:
    a, state = arrays(case), weights(case, seed)
    settings = Network(
        size=a["image"].shape[-1],
        z_dim=a["mean"].shape[1],
        norm="bn" if "encoder.model.bn1.weight" in state else "in",
        width=len(state["decoder.decoder.ScaledCrossReplicaBN.weight"]),
    )
    networks = torch.nn.ModuleDict({"encoder": Encoder(settings), "decoder": Decoder(settings)}).eval()
    published.load(networks, state, str(case))
    # The 2x2 instance norms of the last stage amplify rounding
    tolerance = 5e-3 if settings.norm == "in" else 1e-3
    for kind, suffix, allowed in ((torch.float32, "", tolerance), (torch.float64, "_double", 1e-4)):
        networks.to(kind)
        with torch.no_grad():
            mean, logvar = networks["encoder"](a["image"].to(kind))
            again = networks["encoder"].embed((a["image"].to(kind) + 1) / 2)
            made = networks["decoder"](mean)
            close(made, networks["decoder"](mean), 0, "a second call")
        stored = a[f"reconstruction{suffix}" if f"reconstruction{suffix}" in a else "reconstruction"]
        step = made.shape[-1] // stored.shape[-1]
        close(mean, a[f"mean{suffix}"], allowed, f"mean{suffix}")
        close(again, mean, allowed, f"embed{suffix}")
        close(logvar, a[f"logvar{suffix}"], allowed, f"logvar{suffix}")
        close(made[..., ::step, ::step], stored, allowed, f"reconstruction{suffix}")
        close(made.mean((2, 3)), a["recon_channel_mean"], tolerance, "recon_channel_mean")
        close(divergence(mean, logvar), a["kl"], 1e-3 * float(a["kl"]), "kl")
    close(networks["decoder"].classes(mean), a["class_embedding"], 1e-6, "class_embedding")


CASES: dict[str, Callable[[Path, int], None]] = {
    "cinn_ae": auto_encoder,
    "cinn_ae_128": auto_encoder,
    "cinn_flow": conditional_flow,
    "cinn_flow_control": conditional_flow,
}
