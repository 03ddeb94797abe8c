"""Figures and report: there in both formats, the same bytes each time, self-contained and safe."""

from __future__ import annotations

import base64
import json
import re
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from vckernels.causes import Cause
from vclab import presets, results
from vclab.errors import OutputError
from vclab.figures import memory
from vclab.figures.bars import Bars, served_bars
from vclab.figures.parallel import draw_all
from vclab.figures.report import write_report
from vclab.figures.style import spread, to_png
from vclab.studies.cells import CELLS, EVENT_NAMES, PHASES
from vclab.studies.fallback import measure
from vclab.studies.fallback.drawing import figures
from vclab.studies.fallback.requests import POLICIES, STEPS, WORK

STEMS = [
    "cost-against-reach",
    "cycles-by-cause",
    "controls",
    "cold-against-reach",
    "success-by-order",
    "time-by-cause",
    "cost-over-a-life",
    "memory-before-after",
]
KIND_OF_STATE = {
    0: "free, order 0: single pages",
    **dict.fromkeys((1, 2, 3), "free, orders 1–3"),
    **dict.fromkeys((4, 5, 6, 7, 8), "free, orders 4–8"),
    **dict.fromkeys((9, 10), "free, orders 9–10: pageblocks"),
    16: "allocated, unmovable",
    17: "allocated, movable",
    18: "allocated, reclaimable",
    19: "allocated, high-atomic",
    255: "hole: no memory",
}
VOID_TAGS = {"meta", "img", "br"}


def synthetic(
    seeds: int = 2, orders: tuple[int, ...] = (1, 4, 9), live_pages: tuple[int, ...] = (1, 16, 256)
) -> xr.Dataset:
    """Return results as the study's ``combine`` returns them, with made-up numbers of the right size."""
    rng = np.random.default_rng(5)
    coords = {
        "seed": np.arange(1, seeds + 1),
        "order": list(orders),
        "live_pages": list(live_pages),
        "control_order": [orders[-1]],
        "cell": list(CELLS),
        "control_cell": list(measure.CONTROL_CELLS),
        "control": list(measure.CONTROLS),
        "pattern": list(measure.PATTERNS),
        "phase": list(PHASES),
        "event": EVENT_NAMES,
        "lifetime_order": measure.ends_and_middle(orders),
        "lifetime": list(measure.LIFETIMES),
        "lifetime_cell": list(measure.LIFETIME_CELLS),
        "policy": list(POLICIES),
        "answer": ["physical", "virtual", "failed"],
        "step": list(STEPS),
        "operation": [cause.name.lower() for cause in WORK],
        "target_order": np.arange(11),
        "moment": ["before", "after"],
        "awareness_operation": ["page_address", "virt_to_page", "free"],
        "kind": ["no fallback", "physical", "virtual"],
        "awareness_phase": ["cold", "steady"],
        "counter": [cause.name.lower() for cause in Cause],
    }

    def some(*dims: str) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
        return dims, rng.integers(1, 1000, [len(coords[name]) for name in dims])

    outcome = np.zeros((seeds, len(orders), len(POLICIES), 3), np.int64)
    outcome[:, :, 0] = outcome[:, :, 1] = [40, 0, 24]
    outcome[:, :, 1] = [40, 24, 0]
    outcome[:, :, 2:] = [0, 64, 0]
    states = np.stack([np.full(4096, 10, np.uint8), rng.choice(np.array([0, 1, 5, 16, 17, 18], np.uint8), 4096)])
    awareness = ("seed", "awareness_operation", "kind", "awareness_phase")
    dataset = xr.Dataset(
        {
            "events": some("seed", "order", "live_pages", "cell", "pattern", "phase", "event"),
            "control_events": some("seed", "control_order", "control", "live_pages", "control_cell", "phase", "event"),
            "lifetime_events": some("seed", "lifetime_order", "lifetime_cell", "lifetime", "event"),
            "work": some("seed", "order", "policy", "step", "operation"),
            "counterfactual": (("seed", "order"), np.full((seeds, len(orders)), max(live_pages) // 2)),
            "outcome": (("seed", "order", "policy", "answer"), outcome),
            "unusable_index": (("seed", "target_order"), np.full((seeds, 11), 0.9)),
            "frame_state": (("moment", "frame"), states),
            "awareness_events": some(*awareness, "counter"),
            "awareness_performed": some(*awareness),
            "awareness_work": some("seed", "kind", "counter"),
            "awareness_freed": some("seed", "kind"),
            "awareness_scan_events": some("seed", "awareness_phase", "counter"),
            "awareness_instruction_cycles": some("seed", "awareness_operation", "kind"),
        },
        coords=coords,
        attrs={
            "study": "fallback",
            "parameters": json.dumps({"direct_map": "2M", "fragment_order": 9}),
            "first_level_reach_bytes": 1 << 18,
            "second_level_reach_bytes": 1 << 23,
        },
    )
    dataset["lifetime_events"] = dataset["lifetime_events"].cumsum("lifetime")
    return measure.priced(dataset, presets.cpu("zen3"), presets.linux("6.18"))


def decode_palette_png(png: bytes) -> npt.NDArray[np.uint8]:
    """Return the colours, uint8[height, width, 3], of a PNG of four bits a pixel with a palette and no filters."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        name, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + data)
        chunks[name] = data
        at += 12 + length
    width, height, depth, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, kind) == (4, 3)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width // 2)
    assert not rows[:, 0].any()
    pixels = np.stack([rows[:, 1:] >> 4, rows[:, 1:] & 15], axis=-1).reshape(height, width)
    return np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[pixels]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str, str]]]:
    out = tmp_path_factory.mktemp("figures")
    return out, draw_all(figures(synthetic(), out))


def test_every_figure_is_written_in_both_formats(drawn: tuple[Path, list[tuple[str, str, str]]]) -> None:
    out, listed = drawn
    assert [stem for stem, _, _ in listed] == STEMS
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{stem}.{end}" for stem in STEMS for end in ("png", "svg")
    )
    for stem, title, caption in listed:
        assert title and caption.endswith(".") and "Left out:" in caption and "nan" not in caption
        assert (out / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        text = (out / f"{stem}.svg").read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert len(text) > 10_000 and "dc:date" not in text


def test_figures_are_the_same_bytes_each_time_whatever_the_user_has_set(
    drawn: tuple[Path, list[tuple[str, str, str]]], tmp_path: Path
) -> None:
    out, listed = drawn
    with mpl.rc_context({"font.size": 31, "svg.fonttype": "none", "axes.grid": True}):
        assert draw_all(figures(synthetic(), tmp_path)) == listed
        assert mpl.rcParams["font.size"] == 31
    for path in out.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("orders", "live_pages"),
    [((3,), (1,)), ((1, 2), (3,)), ((10,), (4096,)), (tuple(range(1, 11)), (1, 4, 16, 64, 256))],
)
def test_any_grid_can_be_drawn(orders: tuple[int, ...], live_pages: tuple[int, ...], tmp_path: Path) -> None:
    dataset = synthetic(1, orders, live_pages).drop_vars("frame_state")
    listed = draw_all(figures(dataset, tmp_path))
    assert [stem for stem, _, _ in listed] == [stem for stem in STEMS if not stem.startswith("memory")]
    assert "one seed" in listed[0][2]


def test_more_policies_than_fit_in_a_row_are_drawn_below() -> None:
    shares = np.array([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    policies = [Bars(f"policy {number}", "", shares) for number in range(5)]
    figure = served_bars(policies, ["8 KiB", "16 KiB"])
    assert sum(axes.axison for axes in figure.axes) == 5
    assert to_png(figure)


def test_an_unwritable_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        draw_all(figures(synthetic(), tmp_path / "missing"))


@pytest.mark.parametrize("state", [*range(11), 16, 17, 18, 19, 255, 77])
def test_frame_picture_gives_each_state_its_colour(state: int) -> None:
    states = np.full(2048, 17, np.uint8)
    states[1024:] = state
    picture = np.asarray(memory.frame_picture(states).axes[0].images[0].get_array())
    expected = [KIND_OF_STATE.get(17), KIND_OF_STATE.get(state, "other")]
    colours = [next(colour for name, colour, _ in memory.KINDS if name == kind) for kind in expected]
    shown = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours]
    assert picture.shape == (64, 32, 3)
    assert (picture[:32] == shown[0]).all() and (picture[32:] == shown[1]).all()


def test_states_of_different_colour_differ() -> None:
    assert len(np.unique(memory.PALETTE, axis=0)) == len(memory.KINDS) <= 16


@pytest.mark.parametrize("order", range(11))
def test_every_block_is_a_square_or_half_of_one(order: int) -> None:
    kinds = np.zeros(1024, np.uint8)
    kinds[1024 - (1 << order) :] = 1
    image, per_pixel = memory.lay_out(kinds)
    rows, columns = np.nonzero(image)
    tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert per_pixel == 1 and image.shape == (32, 32)
    assert tall * wide == len(rows) == 1 << order and wide in (tall, 2 * tall)


@pytest.mark.parametrize("frames", [1, 1024, 1025, 5000, 1 << 15])
def test_a_picture_holds_every_frame_once(frames: int) -> None:
    kinds = np.random.default_rng(frames).integers(0, 9, frames).astype(np.uint8)
    image, _ = memory.lay_out(kinds)
    counted = np.bincount(image.ravel(), minlength=len(memory.KINDS))
    assert counted[memory.OUTSIDE] == image.size - frames
    assert (counted[: memory.OUTSIDE] == np.bincount(kinds, minlength=memory.OUTSIDE)).all()
    assert (decode_palette_png(memory.palette_png(image)) == memory.PALETTE[image]).all()


def test_a_picture_of_much_memory_stays_small() -> None:
    kinds = np.zeros((1 << 23) + 4096, np.uint8)
    kinds[1 << 22 :] = 5
    image, per_pixel = memory.lay_out(kinds)
    assert per_pixel == 4 == memory.frames_per_pixel(len(kinds))
    assert (np.bincount(image.ravel())[[0, 5]] == [1 << 20, (1 << 20) + 1024]).all()


def test_the_svg_holds_the_picture_in_full_resolution(drawn: tuple[Path, list[tuple[str, str, str]]]) -> None:
    text = (drawn[0] / "memory-before-after.svg").read_text(encoding="utf-8")
    found = re.findall(r'href="data:image/png;base64,([^"]+)"', text)
    states = synthetic()["frame_state"].values
    assert len(found) == 2
    for encoded, moment in zip(found, states, strict=True):
        image, _ = memory.lay_out(memory.frame_kinds(moment))
        assert (decode_palette_png(base64.b64decode(encoded))[::-1] == memory.PALETTE[image]).all()


def test_an_averaged_picture_keeps_the_mean_colour() -> None:
    image = np.random.default_rng(1).integers(0, 9, (2048, 2048)).astype(np.uint8)
    averaged = memory._averaged(image)
    assert averaged.shape == (1024, 1024, 3)
    assert averaged.mean((0, 1)) == pytest.approx(memory.PALETTE[image].mean((0, 1)), abs=0.5)


@given(st.lists(st.floats(0, 30), min_size=1, max_size=8), st.floats(0.1, 3))
def test_labels_are_spread_without_touching(positions: list[float], gap: float) -> None:
    placed = spread(positions, gap, 0, 30)
    assert placed.min() >= -1e-9 and placed.max() <= 30 + 1e-9
    assert (np.diff(np.sort(placed)) >= gap - 1e-9).all()
    order = np.argsort(positions, kind="stable")
    assert (np.diff(placed[order]) > 0).all()


CLAIMS = [
    results.Claim(
        "Holds & is <b>bold</b>.", "a share", 0.8333, 0.79, 0.87, "", "holds if above half", "holds", "caches"
    ),
    results.Claim(
        "Costs more.", "cycles, virtual over physical", 2.8149, 2.8, 2.8149, "times", "above 1", "does not hold"
    ),
    results.Claim("Is exact.", "a count", 12345.0, unit="pages", verdict="undecided"),
    results.Claim("Is yet to come.", "nothing so far"),
]


def report(out: Path, **changes: Any) -> str:
    content: dict[str, Any] = {
        "title": "vclab: fallback",
        "question": "What does it cost?",
        "summary": ["First the answer.", "Then the rest."],
        "claims": CLAIMS,
        "figures": [],
        "provenance": [
            ("clock.gigahertz", "3.2", "measured", False),
            ("latency.x", "7", "as on its sibling", True),
            ("address", "18446683600570023936", "see https://docs.kernel.org", False),
            ("page_sizes", "('4K', '2M')", "dump", False),
        ],
        "parameters": {"seeds": 5, "orders": [1, 2], "levels": None},
        "facts": {"vclab": "0.1.0", "seeds": "1, 2, 3, 4, 5"},
        "left_out": "Data caches.",
    }
    path = write_report(out, **(content | changes))
    assert path == out / "report.html" and [path] == list(out.glob("*.html")) and not list(out.glob(".*"))
    return path.read_text(encoding="utf-8")


class Checker(HTMLParser):
    """Collects addresses and ids, and sees that elements close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID_TAGS:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        assert tag not in ("script", "link", "iframe", "object"), tag
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == [] and len(set(checker.ids)) == len(checker.ids)
    assert all(address.startswith("data:image/svg+xml,") for address in checker.addresses)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    return checker


def test_the_report_says_everything(drawn: tuple[Path, list[tuple[str, str, str]]], tmp_path: Path) -> None:
    out, listed = drawn
    for path in out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    page = report(tmp_path, figures=listed)
    addresses = check(page).addresses
    assert len(addresses) == len(STEMS)
    for address in addresses:
        ElementTree.fromstring(unquote(address.removeprefix("data:image/svg+xml,")))
    assert not re.search(r"https?://", page.replace("https://docs.kernel.org", ""))
    for claim in CLAIMS[1:]:
        for text in (claim.sentence, claim.measure, claim.threshold, claim.verdict, claim.left_out):
            assert text in page
    for text in ("0.833", "0.790 to 0.870", "2.81 times", "12,345 pages", "exact count", "over 5 seeds"):
        assert text in page
    for _, title, caption in listed:
        assert title in page and caption in page
    for text in ("First the answer.", "1 of them is an estimate", "as on its sibling", "0xffffc90000000000", "4K, 2M"):
        assert text in page
    assert page.index("First the answer.") < page.index("1 holds") < page.index('id="claims"') < page.index("<figure")
    assert page.count('class="estimate"') == 1 and "provisional" not in page
    assert report(tmp_path, figures=listed) == page


@pytest.mark.parametrize(
    ("seeds", "words"), [("7", "Only one seed was run, so there is no interval"), ("1, 2", "nothing is decided yet")]
)
def test_few_seeds_are_said_to_be_few(seeds: str, words: str, tmp_path: Path) -> None:
    page = report(tmp_path, facts={"seeds": seeds})
    assert words in page
    assert ("one seed, no interval" in page) == (seeds == "7") == ("0.790 to 0.870" not in page)


def test_the_report_escapes_hostile_text(tmp_path: Path) -> None:
    bad = '"><script>alert(1)</script>&'
    claim = results.Claim(bad, bad, 1.0, 0.5, 2.0, bad, bad, bad, bad)
    (tmp_path / "stem.svg").write_text(f"<?xml?><svg xmlns='http://www.w3.org/2000/svg'>{bad}</svg>", encoding="utf-8")
    page = report(
        tmp_path,
        title=bad,
        question=bad,
        summary=[bad],
        claims=[claim],
        figures=[("stem", bad, bad)],
        provenance=[(bad, bad, bad, True)],
        parameters={bad: bad},
        facts={bad: bad},
        left_out=bad,
    )
    check(page)
    assert "<script" not in page and page.count("&lt;script&gt;") >= 15


def test_a_report_without_anything_is_still_a_page(tmp_path: Path) -> None:
    page = report(tmp_path, claims=[], provenance=[], parameters={}, facts={}, summary=[])
    check(page)
    assert "seed" not in page.split('id="method"')[0]


def test_a_missing_figure_leaves_no_report(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=re.escape("missing.svg")):
        report(tmp_path, figures=[("missing", "title", "caption")])
    assert list(tmp_path.iterdir()) == []
