"""Animation: windows, what a model is given and what it is compared with, training clips, the plan's inputs, bad input."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import animate, bring, params, plan, predict, score, table, view, weights
from pipeline.datasets import demo_sky
from pipeline.drawing.images import write_image
from pipeline.errors import RetakeError
from pipeline.models.base import Network
from pipeline.params import Params
from pipeline.sources.images import read_any
from pipeline.store.frames import Store, Writer
from pipeline.tasks.animation import Protocol, clips, train
from tests.conftest import furnish, in_parts

FRAMES = Path("data/frames/toy/test.arrow")
CLIPS = {"a/a_1": 8, "a/a_2": 6, "b/b_1": 7}  # frames
SIZE = (16, 20)


def protocol(**changes: Any) -> Protocol:
    return Protocol(**{"task": "animation", "window": 5, "horizon": 4} | changes)


def toy(**changes: Any) -> Params:
    """Params of one small experiment; `changes`: of its protocol."""
    return params.validate(
        {
            "tracking": {"mlflow": False},
            "compute": {"device": "cpu", "threads": 1, "batch": 2, "workers": 0},
            "datasets": {"toy": {"kind": "demo", "height": SIZE[0], "width": SIZE[1], "codec": "raw"}},
            "models": {
                "start": {"kind": "start"},
                "warp_start": {"kind": "warp_start", "predict": {"flow": "truth"}},
                "truth": {"kind": "truth"},
            },
            "protocols": {"short": {"task": "animation", "window": 5, "horizon": 4} | changes},
            "profiles": {},
            "experiments": {
                "toy": {
                    "dataset": "toy", "protocol": "short", "models": {"start": "Start", "warp_start": "Warp"},
                    "metrics": {"psnr": {"kind": "psnr"}, "tof": {"kind": "tof"}}, "predictions": {"mine": "mine"},
                }
            },
        }
    )  # fmt: skip


def picture(clip: int, number: int) -> np.ndarray:
    """A clip of colours that move to the right by 2 px a frame."""
    texture = np.random.default_rng(clip).integers(0, 256, (SIZE[0], SIZE[1], 3), np.uint8)
    return np.roll(texture, 2 * number, axis=1)


def write_frames(path: Path = FRAMES, gap: bool = False) -> Store:
    with Writer(path, codec="raw", meta={"dataset": "toy", "split": "test", "values": "position"}) as out:
        for i, (clip, count) in enumerate(CLIPS.items()):
            for number in range(count):
                values = np.array([i, number], np.float32)
                out.add(clip, number + (gap and number > 2), picture(i, number), values=values)
    return Store(path)


def write_flow(frames: Store, export: str = "pairs", **meta: Any) -> Path:
    """Flow whose x component tells the frame that it leads to, y the clip."""
    path = Path("data/flow/truth/toy/test.arrow")
    about = {"estimator": "truth", "dataset": "toy", "data": frames.identity, "export": export} | meta
    with Writer(path, codec="flow64", dtype="float32", channels=2, meta=about) as out:
        for i, (clip, count) in enumerate(CLIPS.items()):
            for number in range(count - 1):
                out.add(clip, number, np.full((*SIZE, 2), (number + (export == "pairs"), i), np.float32))
    return path


@pytest.fixture
def frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    return write_frames()


class Recorder(nn.Module, Network):
    """Frame k of a clip is k / 16 everywhere, and a sample adds 1/2 of that; what it was given is kept."""

    def __init__(self, **about: Any) -> None:
        super().__init__()
        self.given: list[dict[str, Any]] = []
        for key, value in about.items():
            setattr(self, key, value)

    def predict(self, start: Tensor, horizon: int, *, seeds: list[int], **given: Tensor) -> Tensor:
        self.given.append({"start": start, "seeds": seeds, **given})
        times = torch.arange(horizon) + (not self.draws_start)
        samples = torch.tensor([seed >> 32 for seed in seeds]).view(-1, 1, 1, 1, 1)
        return (times / 16).view(1, -1, 1, 1, 1).expand(len(start), -1, *start.shape[2:]) + samples / 32


def use(monkeypatch: pytest.MonkeyPatch, kind: str, network: Network) -> None:
    monkeypatch.setattr(params.registry("models")[kind], "build", lambda p: network)


# Windows


def test_windows_are_all_starts_or_the_first(frames: Store) -> None:
    names = [w.name for w in clips.windows(frames, protocol())]
    assert names == [*(f"a/a_1:{i}" for i in range(4)), "a/a_2:0", "a/a_2:1", *(f"b/b_1:{i}" for i in range(3))]
    assert [w.name for w in clips.windows(frames, protocol(windows="first"))] == ["a/a_1:0", "a/a_2:0", "b/b_1:0"]


def test_first_windows_may_come_again(frames: Store) -> None:
    names = [w.name for w in clips.windows(frames, protocol(windows="first", starts=2))]
    assert names == ["a/a_1:0", "a/a_2:0", "b/b_1:0", "a/a_1:0#1", "a/a_2:0#1", "b/b_1:0#1"]


def test_random_starts_are_drawn_once_for_each_clip(frames: Store) -> None:
    many = clips.windows(frames, protocol(windows="random", starts=200))
    assert many == clips.windows(frames, protocol(windows="random", starts=200))
    assert len({w.name for w in many}) == len(many) == 600
    for clip, count in CLIPS.items():
        assert {w.start for w in many if w.clip == clip} == set(range(count - 4))
    few = clips.windows(frames, protocol(windows="random", items=7))
    assert [w.clip for w in few] == [*CLIPS, *CLIPS, "a/a_1"]
    assert few == many[:7]


def test_a_clip_shorter_than_the_window_is_named(frames: Store) -> None:
    with pytest.raises(RetakeError, match=r"1 clips are shorter than the window of 7 frames: a/a_2 \(6\)"):
        clips.windows(frames, protocol(window=7))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizon": 5}, "horizon 5 from frame 1 on is more than window 5"),
        ({"horizon": 6, "start": "given"}, "horizon 6 from frame 0 on is more than window 5"),
        ({"lag": 1, "start": "drawn"}, "before the start"),
        ({"starts": 2}, "windows all: starts must be 1"),
        ({"items": 2}, "windows all: starts must be 1"),
    ],
)
def test_protocols_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        protocol(**changes)


# What a clip is compared with


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, 1),
        ({"start": "given"}, 0),  # cINN's BAIR and iPER
        ({"start": "drawn"}, 0),  # DTVNet
        ({"lag": 1}, 0),  # cINN's landscapes and DTDB
    ],
)
def test_generated_and_true_frames_are_paired_as_published(frames: Store, changes: dict[str, Any], first: int) -> None:
    rows = clips.target_rows(frames, clips.Window("a/a_2", 1), protocol(**changes))
    assert list(frames.frame[rows]) == [1 + first + i for i in range(4)]


@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        ("left_out", [1, 2, 3, 4]),
        ("given", ["start", 1, 2, 3]),
        ("drawn", ["drawn", 1, 2, 3]),
    ],
)
def test_a_scored_clip_begins_as_the_protocol_says(
    frames: Store, monkeypatch: pytest.MonkeyPatch, draws: bool, begin: str, expected: list[Any]
) -> None:
    use(monkeypatch, "start", Recorder(draws_start=draws))
    predict.predict(toy(start=begin), "toy", "start")
    store = Store("data/predictions/toy/start.arrow")
    window = clips.windows(frames, protocol())[1]
    start = frames.read(window.clip, [window.start])[0] / 255
    for row, time in zip(store.clips[window.name], expected, strict=True):
        given = time == "start" or (time == "drawn" and not draws)
        level = 0 if time == "drawn" else time
        np.testing.assert_allclose(
            store.image(row) / 65535, start if given else np.full_like(start, level / 16), atol=1e-5
        )


# Motion


def given(
    frames: Store, monkeypatch: pytest.MonkeyPatch, network: Recorder, kind: str = "warp_start", **changes: Any
) -> Any:
    """Return what a network was given in prediction, all windows stacked."""
    use(monkeypatch, kind, network)
    monkeypatch.setattr("pipeline.tasks.common.windows_predict._gmacs", lambda *_: 0.0)
    predict.predict(toy(**changes), "toy", kind)
    return {key: [x for call in network.given for x in call[key]] for key in network.given[0]}


@pytest.mark.parametrize("export", ["pairs", "sky"])
def test_flow_leads_from_the_frame_before(frames: Store, monkeypatch: pytest.MonkeyPatch, export: str) -> None:
    write_flow(frames, export, **({"dataset": "toy"}))
    motion = given(frames, monkeypatch, Recorder(motion="flow"), windows="first", window=4, horizon=3, motion="clip")[
        "motion"
    ]
    for clip, field in enumerate(motion):
        assert field.shape == (4, 2, *SIZE)
        assert field[1:, 0, 0, 0].tolist() == [1, 2, 3]
        assert (field[1:, 1] == clip).all()
        assert not field[0, 0].any()


def test_in_the_middle_of_a_clip_the_first_frame_has_no_flow(frames: Store) -> None:
    store = Store(write_flow(frames, "sky"))
    field = clips.flow(store, frames, "b/b_1", range(2, 5))
    assert field[:, 0, 0].tolist() == [[0, 0], [3, 2], [4, 2]]


def test_other_motion_is_that_of_the_next_clip(frames: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write_flow(frames)
    motion = given(frames, monkeypatch, Recorder(motion="flow"), windows="first", motion="other")["motion"]
    assert [float(field[1, 1, 0, 0]) for field in motion] == [1, 2, 0]
    with pytest.raises(RetakeError, match="a is the only clip"):
        clips.sources([clips.Window("a", 0)], "other")


def test_a_model_may_read_the_motion_of_frames(frames: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    motion = given(frames, monkeypatch, Recorder(motion="frames"), "start", windows="first", motion="other")["motion"]
    expected = torch.from_numpy(frames.read("a/a_2", range(5))).permute(0, 3, 1, 2) / 255
    assert torch.equal(motion[0], expected)


def test_no_motion_is_flow_of_zero_or_a_clip_that_stands_still(frames: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("flow", "frames"):
        got = given(frames, monkeypatch, Recorder(motion=kind), "start", windows="first", motion="zero")
        for start, motion in zip(got["start"], got["motion"], strict=True):
            assert len(motion) == 5
            assert not motion.any() if kind == "flow" else torch.equal(motion, start.expand(5, -1, -1, -1))


def test_a_model_draws_motion_by_seeds_that_differ_by_sample_and_window(
    frames: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Recorder(motion="flow", stochastic=True)
    got = given(frames, monkeypatch, network, "start", windows="first", samples=3)
    assert set(got) == {"start", "seeds"}
    assert sorted(got["seeds"]) == sorted((sample << 32) + place for sample in range(3) for place in range(3))
    store = Store("data/predictions/toy/start.arrow")
    assert store.meta["samples"] == 3
    assert {int(s) for s in store.sample} == {0, 1, 2}


def test_given_motion_has_one_sample(frames: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write_flow(frames)
    given(frames, monkeypatch, Recorder(motion="flow", stochastic=True), samples=3, motion="clip")
    assert Store("data/predictions/toy/warp_start.arrow").meta["samples"] == 1


def test_end_points_are_what_was_measured_with_the_last_frame(frames: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    got = given(frames, monkeypatch, Recorder(controlled=True), "start", windows="first")
    assert [x.tolist() for x in got["endpoint"]] == [[0, 4], [1, 4], [2, 4]]


def test_warped_starts_follow_a_motion_that_never_changes(frames: Store) -> None:
    network = toy().models["warp_start"]
    start = torch.from_numpy(frames.read("a/a_1", range(1))).permute(0, 3, 1, 2)[None] / 255
    flow = torch.tensor([2.0, 0]).view(1, 1, 2, 1, 1).expand(1, 5, 2, *SIZE)
    made = params.registry("models")["warp_start"].build(network).predict(start, 4, seeds=[0], motion=flow)
    for step in range(1, 5):
        true = torch.from_numpy(frames.read("a/a_1", [step])).permute(0, 3, 1, 2)[0] / 255
        assert torch.allclose(made[0, step - 1, ..., 2 * step :], true[..., 2 * step :], atol=1e-5)


# Training


def recipe(**changes: Any) -> params.Train:
    return params.Train(**{"batch": 2, "window": 4} | changes)


def test_training_clips_come_with_the_flow_and_the_end_point_that_are_read(frames: Store) -> None:
    flow = clips.open_flow(str(write_flow(frames)), frames)
    items = train.TrainingClips(frames, flow, recipe(), Recorder(motion="flow", controlled=True))
    for item in items.indices(0, 0, 1):
        clip, start = items.windows[item[1]]
        got = items[item]
        assert {key: (tuple(x.shape), x.dtype) for key, x in got.items()} == {
            "clip": ((4, 3, *SIZE), torch.uint8),
            "flow": ((4, 2, *SIZE), torch.float32),
            "endpoint": ((2,), torch.float32),
        }
        assert torch.equal(
            got["clip"], torch.from_numpy(frames.read(clip, range(start, start + 4))).permute(0, 3, 1, 2)
        )
        assert got["flow"][1:, 0, 0, 0].tolist() == [start + 1, start + 2, start + 3]
        assert got["endpoint"].tolist() == [list(CLIPS).index(clip), start + 3]
    assert set(train.TrainingClips(frames, None, recipe(), Recorder())[0, 0]) == {"clip"}


@pytest.mark.parametrize("changes", [{"crop": 16}, {"windows": "random", "max_stride": 2}])
def test_clips_with_flow_are_whole_and_without_strides(frames: Store, changes: dict[str, Any]) -> None:
    flow = clips.open_flow(str(write_flow(frames)), frames)
    with pytest.raises(RetakeError, match=r"set train\.crop to null and max_stride to 1"):
        train.TrainingClips(frames, flow, recipe(**changes), Recorder())


def test_validation_is_the_gain_over_repeating_the_start(frames: Store) -> None:
    items = train.TrainingClips(frames, None, recipe(), Recorder())
    start = params.registry("models")["start"].build(toy().models["start"])
    assert train.Validation(items, start, 4, 2).score("cpu") == ("val_psnr_gain", 0.0)

    class Perfect(Recorder):
        motion = "frames"

        def predict(self, start: Tensor, horizon: int, *, seeds: list[int], **given: Tensor) -> Tensor:
            return given["motion"][:, 1:]

    assert train.Validation(items, Perfect(), 4, 2).score("cpu")[1] > 50


# The plan


def test_flow_is_planned_for_models_that_read_it_and_of_the_dataset_that_they_name() -> None:
    p = params.load()
    stages = plan.plan(p, ["sky", "sky_clean"])
    flow = "data/flow/arflow_sky/sky_timelapse_arflow"
    trained = stages["train"]["dtvnet-sky_timelapse_dtvnet"]
    assert (trained["flow"], trained["validation_flow"]) == (f"{flow}/train.arrow", None)
    assert {name: fields["flow"] for name, fields in stages["predict"].items()} == {
        "sky-start": None,
        "sky-warp_start": f"{flow}/test.arrow",
        "sky-dtvnet": f"{flow}/test.arrow",
        "sky_clean-start": None,
        "sky_clean-dtvnet": None,  # models draw their motion
    }
    demo = plan.plan(p, ["demo_sky"])["train"]["dtvnet_demo-demo_sky"]
    assert [demo["flow"], demo["validation_flow"]] == [f"data/flow/truth/demo_sky/{s}.arrow" for s in ("train", "val")]


# Scores, tables, pictures


def test_from_frames_to_a_table_and_pictures(frames: Store) -> None:
    p = toy(windows="first", motion="clip")
    write_flow(frames)
    for number, name in enumerate(CLIPS):
        for step in range(1, 5):
            write_image(Path(f"mine/{number:06d}/pred_{step}.png"), frames.read(name, [step])[0])
    bring.bring(p, "toy", "mine")
    for row in ("start", "warp_start"):
        predict.predict(p, "toy", row)
    for row in ("start", "warp_start", "mine"):
        score.score(p, "toy", row)
    table.make(p, "toy")
    lines = Path("results/toy_metrics.csv").read_text().splitlines()
    assert len(lines) == 4
    assert (
        "with the motion of the true clip, from the frame after the start on"
        in Path("results/toy_metrics.md").read_text()
    )
    steps = Path("results/toy_steps.csv").read_text()
    assert "mine,psnr,4,inf" in steps
    store = Store("data/predictions/toy/start.arrow")
    view.shown(store)(store, "a/a_2:0", Path("shown"), Path("beside"))
    assert {f.name for f in Path("shown").iterdir()} == {f"{s:04d}.png" for s in range(1, 5)}
    assert {f.name for f in Path("beside").iterdir()} == {
        "sheet.png", "clip.mp4", *(f"{s:04d}_truth.png" for s in range(1, 5))
    }  # fmt: skip
    assert Path("results/toy.png").stat().st_size > 1000


def test_predictions_of_another_protocol_are_refused(frames: Store) -> None:
    predict.predict(toy(), "toy", "start")
    with pytest.raises(RetakeError, match=r"made with another protocol.*'horizon': 4"):
        score.score(toy(horizon=3), "toy", "start")


# Bad input


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"estimator": "dis"}, "is flow of the estimator dis, not of truth"),
        ({"dataset": "other"}, "is flow of the dataset other, not of toy"),
        ({"data": "ab"}, "was not made from today's"),
    ],
)
def test_flow_of_something_else_is_refused(frames: Store, about: dict[str, str], words: str) -> None:
    path = write_flow(frames, **about)
    with pytest.raises(RetakeError, match=f"{words}.*make it again with `snakemake {path}`"):
        clips.open_flow(str(path), frames)


def test_there_is_no_flow_over_a_gap(frames: Store) -> None:
    gapped = write_frames(Path("gapped.arrow"), gap=True)
    store = Store(write_flow(frames))
    with pytest.raises(RetakeError, match="a/a_1 has a gap in its frames 1 to 5"):
        clips.flow(store, gapped, "a/a_1", range(1, 5))
    with pytest.raises(RetakeError, match=r"has no a/a_1 frame 7"):
        clips.flow(Store(write_flow(frames, "sky")), frames, "a/a_1", range(4, 8))


def test_a_baseline_of_motion_needs_flow(frames: Store) -> None:
    with pytest.raises(RetakeError, match="take a protocol whose motion is clip or other"):
        predict.predict(toy(), "toy", "warp_start")


def test_flow_that_a_model_does_not_read_is_refused() -> None:
    tree = toy().tree
    tree["models"]["sky"] = {"kind": "dis", "predict": {"export": "sky"}}
    tree["models"]["warp"] = {"kind": "flow_warp", "predict": {"flow": "sky"}}
    with pytest.raises(RetakeError, match="sky exports flow for DTVNet alone"):
        params.validate(tree)
    tree["models"].pop("warp")
    tree["models"]["warp_start"]["predict"] = {"flow": "sky", "flow_of": "nowhere"}
    with pytest.raises(RetakeError, match="flow_of: unknown dataset 'nowhere'"):
        params.validate(tree)


# DTVNet in the room


def dtvnet(**protocol: Any) -> Params:
    """The toy with a tiny DTVNet as a row, whose imported weights have no flow encoder."""
    network = {"flow": "truth", "size": 32, "channels": 2, "motion": 4, "content_blocks": 1, "motion_blocks": 1}
    tree = toy(**protocol).tree
    tree["models"]["tiny"] = {"kind": "dtvnet", "network": network, "checkpoint": "generator.pth"}
    tree["experiments"]["toy"]["models"] = {"tiny": "Tiny"}
    p = params.validate(tree)
    built = params.registry("models")["dtvnet"].build(p.models["tiny"])
    torch.save(built.generator.state_dict(), "generator.pth")
    from pipeline import train as stage

    stage.import_published(p, plan.fields_of(p, "train", model="tiny", dataset="toy"))
    return p


def test_without_a_flow_encoder_nothing_is_reconstructed_but_motion_is_drawn(frames: Store) -> None:
    write_flow(frames)
    with pytest.raises(RetakeError, match="no trained flow encoder, as published ones have none: take a protocol"):
        predict.predict(dtvnet(motion="clip", windows="first"), "toy", "tiny")
    predict.predict(dtvnet(windows="first", samples=2), "toy", "tiny")
    store = Store("data/predictions/toy/tiny.arrow")
    assert len(store) == 3 * 2 * 4
    rows = store.clips["a/a_1:0"]
    assert store.image(rows[0]).shape == (*SIZE, 3)
    assert store.meta["parameters"] > 0


def test_odd_sizes_are_refused_before_anything_runs(frames: Store) -> None:
    tree = dtvnet(windows="first").tree
    tree["datasets"]["toy"]["width"] = 21
    with pytest.raises(RetakeError, match=r"model tiny on dataset toy: .*even sides .* nearest: 22x16"):
        params.validate(tree)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_dtvnet_overfits_two_clips_that_only_their_motion_tells_apart() -> None:
    entry = params.load().models["dtvnet_demo"]
    torch.manual_seed(0)
    net = params.registry("models")["dtvnet"].build(entry)
    net.p.predict.quirks = ["untrained_encoder"]
    videos = np.stack([demo_sky.render("test", 0, k, 64, 64)[:32] for k in demo_sky.DRIFTS])
    clip = torch.from_numpy(videos).permute(0, 1, 4, 2, 3).float() / 255
    flow = torch.zeros(2, 32, 2, 64, 64)
    for i, drift in enumerate(demo_sky.DRIFTS.values()):
        flow[i, 1:, 0] = drift

    def psnr(made: Tensor) -> float:
        return float(-10 * (made - clip)[:, 1:].square().mean((2, 3, 4)).log10().mean())

    def reconstructed(motion: Tensor) -> float:
        return psnr(net.predict(clip[:, :1], 32, seeds=[0, 1], motion=motion))

    fabric = SimpleNamespace(autocast=contextlib.nullcontext, world_size=1)
    state = SimpleNamespace(fabric=fabric, optimisers=net.configure(), step=0, steps=250)
    untrained = reconstructed(flow)
    for state.step in range(250):
        net.training_step({"clip": clip, "flow": flow}, state)
    trained = reconstructed(flow)
    assert trained > untrained + 6, f"{untrained:.1f} to {trained:.1f} dB"
    assert trained > psnr(clip[:, :1].expand_as(clip)), "repeating the start"
    assert reconstructed(flow.flip(0)) < trained - 1


# Animating images


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New weights of the demo's model."""
    torch.manual_seed(0)
    entry = params.load().models["dtvnet_demo"]
    state = params.registry("models")["dtvnet"].build(entry.model_copy(update={"train": None})).state_dict()
    path = tmp_path_factory.mktemp("weights") / "demo_sky.pt"
    weights.save(path, {"kind": "dtvnet", "weights": state, "best": None})
    return path


def animated(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr("sys.argv", ["animate", *map(str, arguments)])
    animate.main()


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Images of all modes and odd sizes, one of them lying on its side."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (33, 51, 4), np.uint8)
    made = {
        "grey.png": Image.fromarray(noise[..., 0]),
        "alpha.png": Image.fromarray(noise),
        "deep.png": Image.fromarray(noise[..., 0].astype(np.uint16) * 257),
        "palette.gif": Image.fromarray(noise[..., :3]).quantize(8),
        "small.png": Image.fromarray(noise[:5, :3, :3]),
    }
    for name, image in made.items():
        image.save(tmp_path / name)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(noise[..., :3]).save(tmp_path / "turned.jpg", exif=exif)
    return {name: tmp_path / name for name in (*made, "turned.jpg")}


def test_images_of_any_kind_are_read_as_people_see_them(images: dict[str, Path]) -> None:
    read = {name: read_any(path) for name, path in images.items()}
    assert {name: image.shape for name, image in read.items()} == {
        "grey.png": (33, 51, 3), "alpha.png": (33, 51, 3), "deep.png": (33, 51, 3), "palette.gif": (33, 51, 3),
        "small.png": (5, 3, 3), "turned.jpg": (51, 33, 3),
    }  # fmt: skip
    assert (read["grey.png"] == read["deep.png"]).all()
    noise = np.random.default_rng(0).integers(0, 256, (33, 51, 4), np.uint8)
    through = noise[..., 3:] == 0
    assert (read["alpha.png"][through[..., 0]] == 255).all()


@pytest.mark.parametrize("name", ["alpha.png", "turned.jpg", "small.png"])
def test_a_clip_has_the_size_of_its_image_and_as_many_frames_as_are_asked_for(
    images: dict[str, Path], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    options = ["--checkpoint", checkpoint, "--samples", 2, "--frames", 5, "--format", "png"]
    animated(monkeypatch, images[name], "--output", tmp_path / "out", *options)
    height, width = read_any(images[name]).shape[:2]
    stem = images[name].stem
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{stem}_0", f"{stem}_1", f"{stem}_sheet.png"}
    for sample in range(2):
        frames = sorted((tmp_path / f"out/{stem}_{sample}").iterdir())
        assert [f.name for f in frames] == [f"{n:04d}.png" for n in range(1, 6)]
        assert all(read_any(f).shape == (height, width, 3) for f in frames)


def test_files_hold_all_samples_and_the_same_seed_gives_the_same_bytes(
    images: dict[str, Path], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from PIL import Image

    for name in ("a.gif", "b.gif", "sheet.png", "clip.mp4", "long.gif"):
        frames = 40 if name == "long.gif" else 3
        animated(monkeypatch, images["grey.png"], "--output", tmp_path / name, "--checkpoint", checkpoint,
                 "--samples", 2, "--frames", frames, "--size", "model")  # fmt: skip
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.size, gif.n_frames) == ((128, 64), 3)
    with Image.open(tmp_path / "long.gif") as gif:
        assert gif.n_frames == 40
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    assert (tmp_path / "clip.mp4").stat().st_size > 500


def test_a_folder_of_images_in_one_call(
    images: dict[str, Path], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("grey.png", "turned.jpg"):
        images[name].rename(folder / name)
    (folder / "notes.txt").write_text("no image")
    animated(
        monkeypatch, folder, "--output", tmp_path / "out", "--checkpoint", checkpoint, "--samples", 1, "--frames", 2
    )
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "grey_0.mp4", "grey_sheet.png", "turned_0.mp4", "turned_sheet.png"
    }  # fmt: skip
    with pytest.raises(RetakeError, match="holds other files"):
        animated(monkeypatch, folder, "--output", tmp_path / "out", "--checkpoint", checkpoint)


def test_animations_that_cannot_be_are_refused(
    images: dict[str, Path], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cut.png").write_bytes(images["grey.png"].read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    grey = images["grey.png"]
    for arguments, words in [
        ([grey, grey, "--output", "x.mp4"], "one file, 2 images are given"),
        ([grey, grey, "--output", "x"], "several images are named grey"),
        ([grey, "--output", "x.avi"], "clips are written as"),
        ([grey, "--output", grey], "exists: nothing is overwritten"),
        ([tmp_path / "empty", "--output", "x"], "has no images"),
        ([tmp_path / "cut.png", "--output", "x.gif"], "cannot be read as an image"),
        ([tmp_path / "none.png", "--output", "x.gif"], "no image .*none.png"),
        ([grey, "--output", "x.gif", "--samples", 1000, "--frames", 10_000], "1000 clips of 10000 frames are"),
        ([grey, "--output", "x.gif", "--model", "dmvfn"], "dmvfn is a prediction model"),
    ]:
        with pytest.raises(RetakeError, match=words):
            animated(monkeypatch, *arguments, "--checkpoint", checkpoint)
    with pytest.raises(RetakeError, match="start draws no motion of its own"):
        animated(monkeypatch, grey, "--output", "x.gif", "--model", "start")
    monkeypatch.setattr(animate, "CHECKPOINTS", tmp_path)
    with pytest.raises(RetakeError, match=r"none\. Give --checkpoint, or train the model"):
        animated(monkeypatch, grey, "--output", "x.gif")


def test_windows_in_parts_give_the_same_bytes(frames: Store) -> None:
    in_parts(toy(), "start", ("data/predictions/toy/start.arrow", "data/scores/toy/start.parquet"))
