"""The trust page says what the code does today."""

from __future__ import annotations

from tests import verified


def test_the_page_is_what_the_command_writes() -> None:
    assert verified.PAGE.read_text() == verified.page(), "run `python -m tests.verified`"


def test_public_values() -> None:
    values = {(metric, given): ours for metric, given, _, ours, _ in verified.references()}
    assert f"{values['PSNR', 'scikit-image' + chr(39) + 's camera, noise of sigma 20']:.6f}" == "22.409353"
    assert abs(values["SSIM", "the same"] - 0.357964) < 1e-6
