"""Plots and pictures: colours of the page, pixels of the images."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from made_up_runs import ROUTES, page, renamed, sweep
from matplotlib.image import imread

from snrouter.errors import DataError
from snrouter.report import pictures, plots, save_grid
from snrouter.report.measures import measures


def pixels(uri: str) -> np.ndarray:
    return np.round(imread(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))) * 255).astype(int)


def test_strips_show_every_pixel_in_its_grey():
    images = np.linspace(-1, 1, 2 * 64).reshape(2, 1, 8, 8)
    shown = pixels(pictures.strip(images))
    assert shown.shape[0] == 32
    expected = np.round((images + 1) * 127.5).astype(int)
    gap = shown.shape[1] - 2 * 32
    for i, start in enumerate((0, 32 + gap)):
        tile = shown[:, start : start + 32]
        assert (tile[2::4, 2::4, :3] == expected[i, 0, :, :, None]).all()
        assert (tile[..., 3] == 255).all()
    assert (shown[:, 32 : 32 + gap, 3] == 0).all()


def test_strips_keep_colours_and_reduce_large_images():
    red = np.stack([np.ones((200, 200)), -np.ones((200, 200)), -np.ones((200, 200))])[None]
    shown = pixels(pictures.strip(red))
    assert shown.shape[:2] == (66, 66)
    assert (shown == [255, 0, 0, 255]).all()
    assert pictures.strip(np.zeros((4, 2))) is None
    assert pictures.strip(np.zeros((4, 2, 8, 8))) is None


def test_many_images_share_a_budget_of_bytes():
    noise = np.random.default_rng(0).uniform(-1, 1, (156, 3, 64, 64))
    side = pictures.side(len(noise), 500_000)
    assert 64 // side == 2
    assert len(pictures.grid([noise[i : i + 12] for i in range(0, 156, 12)], side)) < 500_000
    assert pictures.side(1, 500_000) == 96


def test_sample_rows_follow_the_switch_and_leave_out_other_runs(tmp_path):
    images = {label: np.full((1, 1, 8, 8), i / 4, np.float32) for i, label in enumerate([*ROUTES, "old run"])}
    uris = re.findall(r'src="([^"]*)"', page(tmp_path, sweep(), images))
    greys = [pixels(uri)[0, 0, 0] for uri in uris]
    wanted = [images[label][0, 0, 0, 0] for label in ("quality", "eta=0.2", "eta=0.6", "likelihood")]
    assert greys == [round((value + 1) * 127.5) for value in wanted]


def test_a_grid_is_saved_whole(tmp_path):
    images = np.linspace(-1, 1, 5)[:, None, None, None] * np.ones((5, 1, 96, 96))
    shown = pixels("data:image/png;base64," + base64.b64encode(save_grid(images, tmp_path / "s.png").read_bytes()).decode())
    assert shown.shape[:2] == (2 * 96 + 6, 3 * 96 + 2 * 6)
    greys = [shown[row * 102 + 5, column * 102 + 5] for row in range(2) for column in range(3)]
    assert [grey[0] for grey in greys[:5]] == [0, 64, 128, 191, 255]
    assert greys[5][3] == 0
    with pytest.raises(DataError, match=r"got \[4, 2\]"):
        save_grid(np.zeros((4, 2)), tmp_path / "s.png")


def test_plots_are_drawn_in_the_pages_colours():
    results = sweep()
    drawn = [plots.trade_off(results, "a"), plots.close_up(results, "b"), plots.curve(results, measures(results)[0], "c")]
    for svg, prefix in zip(drawn, "abc", strict=True):
        root = ElementTree.fromstring(svg)
        assert {element.get("id").split("-")[0] for element in root.iter() if element.get("id")} == {prefix}
        assert not re.search("#0000[01]", svg)
        assert "var(--ink)" in svg
    words = [" ".join(ElementTree.fromstring(svg).itertext()) for svg in drawn]
    assert all(text in words[0] for text in ("η = 0.2", "quality", "likelihood", "bits/dim, lower is better"))
    assert "bits/dim minus that of likelihood" in words[1]
    assert "Fréchet distance minus that of quality" in words[1]
    assert "quality alone" in words[2]


def test_labels_in_plots_are_no_formulas():
    results = renamed(sweep(), "quality", "$x$ <q>")
    for svg in (plots.trade_off(results, "a"), plots.curve(results, measures(results)[0], "c")):
        assert "$x$ <q>" in " ".join(ElementTree.fromstring(svg).itertext())


def test_experts_keep_their_colours_in_every_plot():
    results = sweep()
    assert plots.expert_colours(results) == {"likelihood": 0, "quality": 1}
    del results["spec"]["route"]["low"]
    assert set(plots.expert_colours(results)) == {"likelihood", "quality"}


def test_lines_at_one_height_have_labels_apart_and_nothing_to_see_is_not_drawn():
    results = sweep({**ROUTES, "likelihood": (1.8417, 6.47)})
    svg = plots.curve(results, measures(results)[1], "c")
    starts = [re.search(rf'x="([\d.]+)"[^>]*>{label} alone', svg) for label in ("quality", "likelihood")]
    assert all(starts), svg
    assert abs(float(starts[0][1]) - float(starts[1][1])) > 50
    same = sweep(dict.fromkeys(ROUTES, (1.8, 6.5)))
    assert plots.curve(same, measures(same)[0], "c") is None


def test_axes_name_the_variant():
    words = " ".join(ElementTree.fromstring(plots.curve(sweep(), measures(sweep())[0], "c")).itertext())
    assert "(VLB)" in words
