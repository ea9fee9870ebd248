"""The page of a run: it opens without a network, and shows the content of the journal.

Without it, hours of a run are a file that nobody can read; a page that claims more than the journal
holds would be worse. It is opened in Chromium, where there is one (Debian's package `chromium`).
"""

import html
import json
import re
import shutil
import sqlite3
import subprocess
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import pytest
from commands import called
from journal_factory import (
    BEGAN_S,
    begin_session,
    keep_segment,
    keep_steps,
    made,
    note_fault,
)
from lightloom.instruments import InputError
from lightloom.scheduler.journal import summary
from lightloom.scheduler.journal.journal_file import JournalFile
from lightloom.scheduler.journal.summary import BINS, LAST_FAULTS, History, summarise
from robustness.fuzz.journals import damaged

from lightloom.report.run import run_page


@pytest.fixture(scope="module")
def on_a_bench(tmp_path_factory: pytest.TempPathFactory, on_the_mock: Path) -> Path:
    """Two sessions of a bench that kept shots and faults: the first was killed."""
    path = tmp_path_factory.mktemp("bench") / "bench.db"
    with made(path, on_the_mock) as (journal, clock):
        for number in range(24):
            clock.now_s += 1.0
            keep_segment(journal, number)
            note_fault(journal, clock.now_s, number)
            if number == 11:
                clock.now_s += 3 * 86400
                begin_session(journal)
        keep_steps(journal, on_the_mock)
        journal.end_session("complete")
        with JournalFile(on_the_mock) as other:
            journal.keep_documents("result", **other.results())
    return path


def page_of(path: Path) -> str:
    with JournalFile(path) as journal:
        return run_page(journal)


# --- in a browser ---------------------------------------------------------------------------------

_BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
needs_browser = pytest.mark.skipif(
    _BROWSER is None, reason="no Chromium here: install Debian's package chromium to open pages"
)
_WIDE, _TALL = 1100, 7000
_MEASURE = """
<script>
addEventListener("load", () => {  // then every resource that was asked for has its entry
  const found = [...document.querySelectorAll("svg")].map(picture => {
    const box = picture.getBoundingClientRect();
    const parts = [...picture.querySelectorAll("rect, path, text")]
      .filter(part => part.closest("defs") === null).map(part => part.getBBox());
    return {x: box.x, y: box.y, width: box.width, height: box.height, parts: parts.length,
      drawn: parts.filter(part => part.width > 0 || part.height > 0).length,
      folded: picture.closest("details") !== null};
  });
  const pre = document.createElement("pre");
  pre.id = "measured";
  pre.textContent = JSON.stringify({pictures: found, height: document.body.scrollHeight,
    wide: document.documentElement.scrollWidth,
    resources: performance.getEntriesByType("resource").map(item => item.name)});
  document.body.append(pre);
});
</script>
"""


@dataclass
class Opened:
    """The report of a browser on a page."""

    console: list[str]
    requests: list[str]
    measured: dict[str, object]
    picture: np.ndarray  # [height, width, 3], from 0 to 1


def browse(folder: Path, page: Path, *options: str) -> tuple[str, list[str], list[str]]:
    """Open a page: what goes to standard output, lines of the console, addresses asked for."""
    assert _BROWSER is not None
    log = folder / "net.json"
    run = subprocess.run(
        [
            *(_BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update"),
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            *(f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}"),
            *("--enable-logging=stderr", "--v=0", "--hide-scrollbars"),
            *(f"--window-size={_WIDE},{_TALL}", "--virtual-time-budget=5000", *options),
            page.as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    console = [
        line for line in run.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line
    ]
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    parameters = [event["params"] for event in events if "params" in event]
    # what a page asks for names it, which a file has no name for; the browser's own says otherwise
    asked = [
        item["url"] for item in parameters if item.get("initiator") == "null" and "url" in item
    ]
    return run.stdout.decode("utf-8"), console, asked


def opened(folder: Path, content: str) -> Opened:
    """Open a page as it is, and a copy that measures itself."""
    from matplotlib.image import imread

    page, copy, picture = folder / "page.html", folder / "copy.html", folder / "page.png"
    page.write_text(content, encoding="utf-8")
    copy.write_text(content.replace("</body>", f"{_MEASURE}</body>"), encoding="utf-8")
    _, console, requests = browse(folder, page, f"--screenshot={picture}")
    dumped, *_ = browse(folder, copy, "--dump-dom")
    measured = re.search(r'<pre id="measured">(.*?)</pre>', dumped, re.DOTALL)
    assert measured is not None, dumped[-500:]
    sizes = json.loads(html.unescape(measured[1]))
    return Opened(console, requests, sizes, imread(picture)[..., :3])


def check_opened(found: Opened, pictures: int) -> None:
    assert found.console == []
    assert found.requests == [] and found.measured["resources"] == []
    assert found.measured["height"] < _TALL  # the picture below shows all of it
    assert found.measured["wide"] <= _WIDE
    shown = [box for box in found.measured["pictures"] if not box["folded"]]
    assert len(shown) >= pictures
    for box in shown:
        assert box["width"] > 100 and box["height"] > 30
        assert box["drawn"] == box["parts"] > 3
        first, last = int(box["y"]), int(box["y"] + box["height"])
        left, right = int(box["x"]), int(box["x"] + box["width"])
        inside = found.picture[first:last, left:right]
        ink = np.any(np.abs(inside - found.picture[0, 0]) > 0.15, axis=-1)
        assert ink.mean() > 0.005  # a frame alone is more
        assert ink.any(axis=1).mean() > 0.2 and ink.any(axis=0).mean() > 0.5


@pytest.mark.slow
@needs_browser
def test_a_browser_shows_all_of_a_bench_run_and_asks_for_nothing(
    on_a_bench: Path, tmp_path: Path
) -> None:
    # bars of time, two of energy, six figures over time, faults
    check_opened(opened(tmp_path, page_of(on_a_bench)), pictures=10)


@needs_browser
def test_a_browser_shows_all_of_a_mock_run(on_the_mock: Path, tmp_path: Path) -> None:
    check_opened(opened(tmp_path, page_of(on_the_mock)), pictures=3)


@pytest.mark.slow
@needs_browser
def test_the_browser_would_tell_what_is_wrong(on_the_mock: Path, tmp_path: Path) -> None:
    # without this, the two tests above could pass by hearing nothing at all
    broken = page_of(on_the_mock).replace(
        "</body>",
        '<img src="http://127.0.0.1:9/x.png"><script>nothing.at.all()</script>'
        '<svg viewBox="0 0 520 200"></svg></body>',
    )
    found = opened(tmp_path, broken)
    assert any("nothing is not defined" in line for line in found.console)
    assert "http://127.0.0.1:9/x.png" in found.requests
    assert found.measured["resources"]
    assert any(box["drawn"] == 0 for box in found.measured["pictures"])


# --- its content ---------------------------------------------------------------------------------


def text_of(content: str) -> str:
    """Return the words of a page."""
    words = re.sub(r"<style>.*?</style>", "", content, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", words)).split())


def test_a_page_holds_no_address_and_no_script(on_a_bench: Path) -> None:
    content = page_of(on_a_bench)
    assert "<script" not in content and "@import" not in content
    assert not re.search(r'(?:src|href)="(?!#)|url\((?!#)', content)
    assert "<made up>" not in content and "&lt;made up&gt;" in content
    assert "&lt;b&gt;&amp;amp;" in content


def test_a_complete_run_shows_its_figures(on_the_mock: Path) -> None:
    text = text_of(page_of(on_the_mock))
    with JournalFile(on_the_mock) as journal:
        report = journal.results()["report"]
    assert "MOCK: simulated; no light was measured." in text
    assert "NOT COMPLETE" not in text
    assert f"accuracy, optical {report['quality']['optical']:.2%}" in text
    assert f"shots {report['stats']['shots']:,}" in text
    for step in report["steps"]:
        assert step["kind"] in text
    assert "seeds 0 of the noise" in text
    assert "slm-camera" in text and "numpy" in text
    # every figure names its source
    assert "measured" in text and "predicted" in text and "Where the figures come from" in text


def test_sessions_and_their_outcomes_are_shown(on_a_bench: Path) -> None:
    text = text_of(page_of(on_a_bench))
    assert "killed" in text and "complete" in text
    with JournalFile(on_a_bench) as journal:
        run = summarise(journal)
    first, second = run.sessions
    assert first.outcome is None and first.ended_s == BEGAN_S + 12  # its last kept row
    assert second.offset_s == 12  # three days without a run do not count
    assert first.shots == second.shots == 12 * 50
    assert run.quality.end_s == pytest.approx(24, abs=1)


def test_faults_are_all_counted(on_a_bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "FAULTS_AT_ONCE", 10)
    with JournalFile(on_a_bench) as journal:
        run = summarise(journal)
        faults = list(journal.faults())
    assert {key: share.count for key, share in run.faults.items()} == {
        ("stale", "the detector"): 8,
        ("timeout", ""): 8,
        ("unexpected-intensity", "the <source> & more"): 8,
    }
    assert sum(share.lost_s for share in run.faults.values()) == 0.25 * 24
    assert run.fault_history.rows.sum() == 24
    assert list(run.last_faults) == faults
    text = text_of(page_of(on_a_bench))
    assert "stale the detector 8 retry 8 2 s" in text
    assert all(fault["detail"] in text for fault in faults)


def test_numbers_that_were_not_measured_are_marked_on_top(
    on_the_mock: Path, tmp_path: Path
) -> None:
    path = tmp_path / "marked.db"
    with made(path, on_the_mock) as (journal, _):
        for number in range(6):
            keep_segment(journal, number)  # every third has a shot without a measurement
    assert "MARKED: 2 shots with numbers that were not measured" in text_of(page_of(path))


def test_the_power_of_checksums_is_shown_by_product(on_the_mock: Path, tmp_path: Path) -> None:
    path = tmp_path / "checked.db"
    with JournalFile(on_the_mock) as other:
        report = other.results()["report"]
    found = {"checks": 12_345, "suspicious": 3, "largest": 3.5, "smallest_error": 0.0625}
    with made(path, on_the_mock) as (journal, _):
        keep_steps(journal, on_the_mock)
        stats = report["stats"] | {"checks": 12_345, "suspicious": 3}
        checks = {"layer.0.mlp.up": found, "layer.0.mlp.down": {"checks": 0}}
        journal.keep_documents("result", report=report | {"stats": stats, "checks": checks})
    text = text_of(page_of(path))
    assert "12,345 checksums of tiles were checked, 3 are suspicious." in text
    assert "layer.0.mlp.up 12,345 3 3.50 0.0625" in text
    assert "layer.0.mlp.down 0 0 - not known" in text


def test_only_the_latest_faults_are_listed(on_the_mock: Path, tmp_path: Path) -> None:
    path = tmp_path / "faults.db"
    with made(path, on_the_mock) as (journal, clock):
        for number in range(LAST_FAULTS + 40):
            note_fault(journal, clock.now_s + number, number)
    text = text_of(page_of(path))
    assert f"The latest {LAST_FAULTS}, newest first" in text
    assert "fault 239:" in text and "fault 40:" in text and "fault 39:" not in text
    assert "all 240 60 s" in text


@pytest.mark.parametrize("outcome", [None, "paused", "stopped", "failed"])
def test_an_incomplete_run_shows_its_progress(
    outcome: str | None, on_the_mock: Path, tmp_path: Path
) -> None:
    path = tmp_path / "part.db"
    with made(path, on_the_mock) as (journal, clock):
        keep_steps(journal, on_the_mock, 54 + 10)  # a pass has 54 steps, and two images
        clock.now_s += 5
        if outcome is not None:
            journal.end_session(outcome, "the <shutter> is closed")
    text = text_of(page_of(path))
    assert "NOT COMPLETE: 2 of 6 images done, and 10 of 54 steps of the next." in text
    assert "lightloom resume part.db" in text
    if outcome is None:
        assert "has no recorded end: it is still running, or was killed" in text
    else:
        assert f"Session 1 {outcome}: the <shutter> is closed" in text
    assert "Accounted for once the run is complete." in text
    assert "accuracy" not in text  # no result before the end


def test_a_running_run_gives_a_page_and_is_not_disturbed(on_the_mock: Path, tmp_path: Path) -> None:
    path = tmp_path / "now.db"
    with made(path, on_the_mock) as (journal, _):
        keep_segment(journal, 0)
        journal.writer.flush()
        assert "50 shots, references included" in text_of(page_of(path))
        keep_segment(journal, 1)  # the writer is not blocked
        journal.writer.flush()
        assert "100 shots, references included" in text_of(page_of(path))


def test_a_journal_without_anything_gives_a_page(tmp_path: Path) -> None:
    from lightloom.scheduler.journal.journal import Journal

    path = tmp_path / "empty.db"
    Journal.create(path).close()
    text = text_of(page_of(path))
    assert "NOT COMPLETE: no step was finished yet." in text and "MOCK" in text


def test_accepted_changes_are_shown_on_top(on_the_mock: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.db"
    with made(path, on_the_mock) as (journal, _):
        journal.keep_documents(
            "about", **{"changed in session 2": {"model": "the model is another"}}
        )
    assert "CHANGED on the way, in session 2: the model is another." in text_of(page_of(path))


def test_a_damaged_journal_is_refused_in_one_sentence(on_a_bench: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    shutil.copy(on_a_bench, path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE step SET seconds = seconds + 1 WHERE step = 3")
    connection.close()
    with pytest.raises(InputError, match="is damaged"):
        page_of(path)
    assert report(path, "--output", tmp_path / "out.html").returncode == 2
    assert not (tmp_path / "out.html").exists()


# --- large runs -----------------------------------------------------------------------------------


def test_bins_lose_nothing_that_stands_out() -> None:
    rng = np.random.default_rng(3)
    at_s = np.cumsum(rng.exponential(0.3, 20_000))
    values = np.stack([rng.standard_normal(20_000), np.arange(20_000.0)], axis=1)
    values[rng.random(values.shape) < 0.2] = np.nan
    values[12_345, 0] = 99.0
    course = History(("one", "other"))
    for first in range(0, 20_000, 137):
        course.add(at_s[first : first + 137], values[first : first + 137])
    place = (at_s / course.width_s).astype(int)
    assert BINS / 2 <= place.max() < BINS
    assert np.array_equal(course.rows, np.bincount(place, minlength=BINS))
    assert np.array_equal(course.counts.sum(axis=0), np.isfinite(values).sum(axis=0))
    assert np.allclose(course.sums.sum(axis=0), np.nansum(values, axis=0))
    assert course.highs[place[12_345], 0] == 99.0
    for number in np.unique(place):
        found = values[place == number]
        assert np.array_equal(course.lows[number], np.fmin.reduce(found))
        assert np.array_equal(course.highs[number], np.fmax.reduce(found))


@pytest.mark.slow
def test_a_long_run_takes_no_more_memory_and_no_longer_page(
    on_the_mock: Path, tmp_path: Path
) -> None:
    def measured(name: str, segments: int) -> tuple[int, int]:
        path = tmp_path / name
        with made(path, on_the_mock) as (journal, clock):
            for number in range(segments):
                clock.now_s += 1
                keep_segment(journal, number, shots=400, slots=64)
                for fault in range(2):
                    note_fault(journal, clock.now_s, 2 * number + fault)
        tracemalloc.start()
        content = page_of(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak, len(content)

    page_of(on_the_mock)  # so that imports and caches do not count below
    short, long = measured("short.db", 160), measured("long.db", 640)
    assert long[0] < 1.2 * short[0] + 500_000, (short, long)
    assert long[1] < 1.2 * short[1] and long[1] < 300_000


# --- damage ---------------------------------------------------------------------------------------


def test_a_damaged_journal_has_the_same_page_or_a_sentence(
    on_the_mock: Path, on_a_bench: Path, tmp_path: Path
) -> None:
    # one bit in 75 led to a traceback, or to a page without some of the run
    for whole in (on_the_mock, on_a_bench):
        path, content, wanted = tmp_path / "run.db", whole.read_bytes(), _told(whole, tmp_path)
        refused = 0
        for number in range(60):
            path.write_bytes(damaged(Random(f"page {number}"), content))
            try:
                assert _told(path, tmp_path) == wanted, number
            except InputError as error:
                refused += 1
                assert "run.db" in str(error)
            for left in tmp_path.glob("run.db-*"):
                left.unlink()
        assert 20 < refused < 60


def _told(path: Path, folder: Path) -> str:
    """Return the page of a journal without what says when it was made, and of which file."""
    page = page_of(path).replace(path.name, "NAME")
    return re.sub(r"NAME, [^;]*; page of [0-9-]+ [0-9:]+ UTC", "", page)


# --- the command ----------------------------------------------------------------------------------


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    return called(Path(), "report", *arguments)


def test_the_command_writes_beside_the_journal_or_where_it_is_told(
    on_the_mock: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run.db"
    shutil.copy(on_the_mock, path)
    done = report(path)
    assert done.returncode == 0 and "run.html" in done.stdout
    assert (tmp_path / "run.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert report(path, "--output", tmp_path / "other.html").returncode == 0
    assert (tmp_path / "other.html").exists()
    before = path.read_bytes()
    for options in (("--output", path), ("--layer", 1)):
        refused = report(path, *options)
        assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1
    assert path.read_bytes() == before
