"""Text that a run shows while it generates it, and when its tokens came."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from lightloom.models.generation import text_of
from lightloom.scheduler.journal.journal_file import JournalFile
from lightloom.scheduler.runs import Run
from typer.testing import CliRunner

import lightloom
from lightloom.cli.app import app
from lightloom.report.run import run_page
from lightloom.report.terminal.console import PrintableConsole, ProgressBar
from lightloom.report.terminal.run import StreamedText, streamed_text

PROMPT, TOKENS = "The argument", 12
RUN = ("run", "--model", "glimmer", "--prompt", PROMPT, "--max-tokens", str(TOKENS))


def generated(record: Path | None = None, on_text: Callable[[str], None] | None = None) -> Run:
    model = lightloom.load_model("glimmer")
    length = model.prompt_tokens(PROMPT).shape[1]
    planned = lightloom.plan(model, "mock", sequence=length, new_tokens=TOKENS)
    return planned.run(PROMPT, record=record, on_text=on_text)


@pytest.fixture(scope="module")
def finished() -> tuple[Run, list[str]]:
    """A run, and the texts that it told."""
    texts: list[str] = []
    return generated(on_text=texts.append), texts


def decoded(tokens: list[int]) -> str:
    return bytes(tokens).decode("utf-8", "replace")


def test_every_token_has_one_text_and_no_character_comes_in_parts() -> None:
    written = "aé\N{GRINNING FACE}b"
    texts = list(text_of(written.encode(), decoded))
    assert texts == ["a", "", "é", "", "", "", "\N{GRINNING FACE}", "b"]


def test_an_incomplete_character_at_the_end_is_shown() -> None:
    assert list(text_of(b"a\xc3", decoded)) == ["a", "\N{REPLACEMENT CHARACTER}"]


def test_a_run_tells_the_text_of_light_alone(finished: tuple[Run, list[str]]) -> None:
    # the reference generates a text, too, which must not be told
    run, texts = finished
    assert len(texts) == TOKENS and "".join(texts) == run.results["text"]


def test_a_report_says_when_the_tokens_came(finished: tuple[Run, list[str]]) -> None:
    report = finished[0].report().as_dict()
    for side in ("digital", "optical"):
        measured = report["generation"][side]
        assert measured["tokens"] == TOKENS
        assert measured["time_to_first_token_s"] > 0 and measured["tokens_per_second"] > 0
    first_s = report["generation"]["optical"]["time_to_first_token_s"]
    later_s = (TOKENS - 1) / report["generation"]["optical"]["tokens_per_second"]
    assert first_s + later_s <= report["wall_seconds"]


def test_a_digital_run_without_reference_shows_its_text_once() -> None:
    shown = CliRunner().invoke(app, [*RUN, "--backend", "digital", "--no-reference"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("digital:") == 1 and "optical" not in shown.stdout


def test_the_text_comes_before_the_report_and_once() -> None:
    shown = CliRunner().invoke(app, RUN).stdout
    assert shown.index("optical MOCK:") < shown.index("glimmer on the mock backend")
    assert shown.count("optical MOCK:") == 1 and "optical:" not in shown
    assert "digital:" in shown and "time to first token" in shown


def test_json_is_alone_on_standard_output() -> None:
    document = json.loads(CliRunner().invoke(app, [*RUN, "--json", "--no-reference"]).stdout)
    assert document["generation"]["digital"] is None
    assert document["generation"]["optical"]["tokens"] == TOKENS


def test_a_resumed_run_shows_its_whole_text(
    finished: tuple[Run, list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("jinja2", reason="needs pip install 'lightloom[report]'")
    record = tmp_path / "run.db"
    texts: list[str] = []

    def stop_soon(text: str) -> None:
        texts.append(text)
        if len(texts) == TOKENS // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generated(record, stop_soon)
    resumed = CliRunner().invoke(app, ["resume", str(record)])
    assert resumed.exit_code == 0, resumed.output
    whole = finished[0].results["text"]
    assert f"optical MOCK: {whole}\n" in resumed.stdout
    with JournalFile(record) as journal:
        report = journal.results()["report"]
        page = run_page(journal)
    assert "time to first token, digital" in page and "first token, optical" not in page
    assert report["results"]["text"] == whole
    assert report["generation"]["optical"]["time_to_first_token_s"] is None  # in two sessions
    assert report["generation"]["digital"]["time_to_first_token_s"] > 0


class _Bar(ProgressBar):
    """Writes down what a progress bar is asked to do."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        self.seen.append(what)

    def hide(self) -> None:
        self.seen.append("(hidden)")

    def show(self) -> None:
        self.seen.append("(shown)")


def test_the_progress_bar_makes_room_for_the_text() -> None:
    bar = _Bar()
    text = StreamedText(PrintableConsole(None), bar, "")
    assert text.on_text is not None
    text.tell("run", 0, 2)
    text.on_text("")
    text.on_text("a")
    text.tell("run", 1, 2)
    text.tell("a full disk", 0, 1)
    text.on_text("b")
    text.tell("reference", 0, 2)
    expected = ["run", "(hidden)", "(shown)", "a full disk", "(hidden)", "(shown)", "reference"]
    assert bar.seen == expected


def test_text_of_a_model_cannot_control_the_terminal() -> None:
    where = PrintableConsole(None)
    with where.capture() as shown, streamed_text(where, True, True, False, True) as text:
        assert text.on_text is not None
        text.on_text("one\n")
        text.on_text(" [bold]two\x1b[2J  ")
    assert shown.get() == "\noptical MOCK NOT CALIBRATED: one\n [bold]two\\x1b[2J  \n"
