"""i2v-cINN, "Stochastic Image-to-Video Synthesis using cINNs" (CVPR 2021, arXiv 2105.04551): its flow, and the whole.

A frame in, a video out: Gaussian noise becomes a motion code by a flow that sees the frame's embedding (`cinn_ae`), and a
decoder (`cinn_stage1`) makes 16 frames of frame and code. Only the flow is trained here. Defaults are the published BAIR
settings; `network.control` true is the model with end points. The others differ in

    iPER                               encoder.z_dim 128; stage 1 as for BAIR
    landscape, DTDB                    encoder and stage 1 as their own entries say; lr_epochs 6

Follows the published code: the log-determinant leaves out the activations (constant but for jumps, so that training is the
same), and every ActNorm is set by the first batch that passes it, in evaluation too. Quirk:

    batch_statistics                   in training the frozen encoder's batch normalisation (landscape, waterfall) takes the
                                       statistics of the batch, in prediction the stored ones, which stay as they are

Different on purpose: predictions have exactly as many frames as were asked for, and the clip's motion (`motion`) may have
15 frames, where the published query has 16 of which 15 are encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pipeline import params
from pipeline.models import cinn_ae, cinn_stage1

if TYPE_CHECKING:
    from pipeline.models.cinn.training import Cinn


class Network(params.Strict):
    """What the weights depend on; `stage1` and `encoder` as in the entries of the two models that it starts from."""

    blocks: int = Field(default=20, ge=1, description="of the flow")
    width: int = Field(default=512, ge=1, description="of the networks in its couplings")
    depth: int = Field(default=2, ge=0, description="inner layers of the networks in its couplings")
    control: bool = Field(default=False, description="whether the end point of the robot's arm is part of the condition")
    stage1: cinn_stage1.Network = cinn_stage1.Network()
    encoder: cinn_ae.Network = cinn_ae.Network()
