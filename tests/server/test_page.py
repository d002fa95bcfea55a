"""The page at / in a real browser, on real servers of the tiny bundles."""

from __future__ import annotations

import csv
import io
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mpt_edge
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.inference.model import Model
from mpt_edge.inference.task import Task
from mpt_edge.server.keys import Keys
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support import browser as browsers
from tests.support import http
from tests.support.encoders import make_task
from tests.support.examples import with_example
from tests.support.http import App

USER, ADMIN = "user-0123456789abcdef", "root-0123456789abcdef"

#: A label that is HTML, and one that turns the direction of the text after it.
HTML, TURNING = "<img src=x onerror=document.title='bad'>", "good\u202e\x1b[31m"

TEXT = "a witty film"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsers.opened() as opened:
        yield opened


@pytest.fixture(scope="module")
def site(
    browser: Any, tiny: EncoderBackbone, shared_prompt: SharedPrompt, tiny_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, App]]:  # fmt: skip
    """Return the address and app of a server that has a hostile task too."""
    folder = tmp_path_factory.mktemp("page")
    model = mpt_edge.load(shutil.copytree(tiny_bundle, folder / "bundle"), threads=1)
    hostile = make_task(
        tiny, shared_prompt, "hostile", {HTML: "bad", TURNING: "good", **dict(zip("abc", "abc", strict=True))}
    )
    with_example(model, hostile).save(folder / "hostile.safetensors")
    model.install(folder / "hostile.safetensors")
    with http.listening(model) as made:
        yield made


@pytest.fixture
def problems() -> list[str]:
    """Return what the console said, and which hosts were asked."""
    return []


@pytest.fixture
def open_page(browser: Any, problems: list[str]) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a page; what its console says fails the test."""
    contexts = []

    def open_page(url: str, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: request.url.startswith((url, "blob:")) or problems.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def page(open_page: Callable[..., Any], site: tuple[str, App]) -> Any:
    """Return the page with all its answers."""
    page = open_page(site[0])
    page.wait_for_function("() => document.getElementById('answers-status').textContent.startsWith('3 answers')")
    return page


def asked(app: App, text: str, *tasks: str) -> list[dict[str, Any]]:
    return app.post("/run", {"rows": [{"text": text, "task": task} for task in tasks]}).json["answers"]


def ask(page: Any, text: str) -> None:
    """Type a text, and wait for all its answers."""
    with page.expect_request(lambda request: request.url.endswith("/run")):
        page.fill("#text", text)
    page.wait_for_function("() => !document.querySelector('[aria-busy]')")


def card(page: Any, task: str) -> Any:
    return page.locator(f".card[data-task={task}]")


def scores(page: Any, task: str) -> dict[str, float]:
    """Return the labels and scores that a card shows, those of the fold too."""
    for fold in card(page, task).locator("details:not([open]) summary").all():
        fold.click()
        card(page, task).locator("details li").first.wait_for()
    rows = card(page, task).locator(".bars li").all()
    return {row.locator("bdi").inner_text(): float(row.locator("data").get_attribute("value")) for row in rows}


def test_answers_of_several_tasks_are_those_of_the_api(page: Any, site: tuple[str, App]) -> None:
    ask(page, TEXT)
    answers = asked(site[1], TEXT, "sentiment", "topic")
    sizes = {task["task"]: task["bytes"] for task in site[1].get("/tasks").json["tasks"]}
    for answer in answers:
        shown = card(page, answer["task"])
        assert scores(page, answer["task"]) == answer["scores"]
        assert shown.locator(".best").inner_text() == answer["label"]
        assert shown.locator("data").first.inner_text() == f"{answer['score']:.3f}"
        taken, size = shown.locator(".facts").inner_text().split(" · ")
        assert re.fullmatch(r"\d+(\.\d)? ms", taken)
        assert size == f"{sizes[answer['task']]:,} bytes"
    assert page.locator("#answers-spoken").inner_text().startswith("hostile: ")
    assert "2 more labels" in card(page, "hostile").inner_text()
    card(page, "hostile").locator("summary").click()
    ask(page, "a dull film")
    assert card(page, "hostile").locator("details[open] li").count() == 2  # as it was before the text changed


def test_choosing_tasks_and_pairs(page: Any, site: tuple[str, App]) -> None:
    assert card(page, "same").inner_text().endswith("Type a second text: this task reads pairs.")
    page.fill("#text-pair", "a dull film")
    page.press("#text-pair", "Control+Enter")
    card(page, "same").locator(".best").wait_for()
    rows = [{"text": page.input_value("#text"), "text_pair": "a dull film", "task": "same"}]
    assert scores(page, "same") == site[1].post("/run", {"rows": rows}).json["answers"][0]["scores"]
    page.click("#tasks-none")
    assert page.locator(".card").count() == 0
    page.get_by_label("topic").check()
    card(page, "topic").locator(".best").wait_for()
    assert page.locator(".card").count() == 1
    assert page.locator("#tasks-count").inner_text() == "1 of 4 chosen"
    assert page.locator("#pair-line").is_hidden()


def test_hostile_labels_are_text(page: Any, site: tuple[str, App]) -> None:
    ask(page, TEXT)
    assert HTML in scores(page, "hostile")
    assert "good\\u202e\\x1b[31m" in scores(page, "hostile")
    page.click("#tab-column")
    page.fill("#column", TEXT)
    page.press("#column", "Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#column-table td")
    assert page.locator("img, iframe, object, script:not([src])").count() == 0
    assert page.title() == "mpt-edge"


def test_a_text_that_cannot_be_answered_has_its_sentence(page: Any) -> None:
    page.fill("#text", "")
    page.wait_for_function("() => document.querySelectorAll('.card .best').length === 0")
    assert card(page, "topic").locator(".body").inner_text() == "Type a text."


def test_a_column_becomes_a_table_and_a_csv(page: Any, site: tuple[str, App]) -> None:
    texts = [TEXT, '=1+"a",b', "a dull game"]
    page.click("#tasks-none")
    for task in ("sentiment", "topic", "same"):
        page.get_by_label(task).check()
    page.click("#tab-column")
    page.fill("#column", f"{texts[0]}\ta dull film\r\n\n" + "\n".join(texts[1:]))
    page.click("#column-form [type=submit]")
    page.wait_for_selector("#column-table td")
    assert page.locator("#column-status").inner_text().startswith("9 answers in ")
    expected = [asked(site[1], text, "sentiment", "topic") for text in texts]
    shown = [[cell.inner_text() for cell in row.locator("td").all()] for row in page.locator("tbody tr").all()]
    for answers, cells in zip(expected, shown, strict=True):
        assert cells[1:] == [f"{answer['label']}\n{answer['score']:.3f}" for answer in answers]
    with page.expect_download() as download:
        page.click("#column-csv")
    text = Path(download.value.path()).read_text("utf-8-sig")
    titles, *rows = list(csv.reader(io.StringIO(text)))
    assert titles[:2] == ["text", "text_pair"]
    assert titles[-4:] == ["sentiment", "sentiment.score", "topic", "topic.score"]
    assert [row[0] for row in rows] == [texts[0], "'" + texts[1], texts[2]]
    for answers, row in zip(expected, rows, strict=True):
        values = [value for answer in answers for value in (answer["label"], answer["score"])]
        assert [row[-4], float(row[-3]), row[-2], float(row[-1])] == values
    assert titles[2:5] == ["same", "same.score", "same.error"]
    assert "the text is empty" in rows[1][4]
    assert rows[0][4] == ""


def test_a_full_queue_is_asked_again(page: Any, problems: list[str]) -> None:
    full = {"status": 429, "headers": {"Retry-After": "0.1"}, "json": {"error": "too many texts wait"}}
    page.route("**/run", lambda route: route.fulfill(**full), times=2)
    page.click("#tab-column")
    page.fill("#column", TEXT)
    page.click("#column-form [type=submit]")
    page.wait_for_selector("#column-table td")
    assert page.locator("#column-status").inner_text().startswith("4 answers in ")
    assert [re.search(r"status of (\d+)", each)[1] for each in problems] == ["429", "429"]
    problems.clear()


def test_the_map_shows_every_task_and_its_nearest(page: Any, site: tuple[str, App]) -> None:
    page.focus("#tab-text")
    for key in ("ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    page.wait_for_selector("#map circle")
    points = {point["task"]: point for point in site[1].get("/map").json["points"]}
    dots = page.locator("#map circle").evaluate_all(
        "dots => dots.map((dot) => [dot.textContent, +dot.getAttribute('cx'), +dot.getAttribute('cy')])"
    )
    places = {name: (x, y) for name, x, y in dots}
    assert set(places) == set(points) == set(page.locator("#map text").all_text_contents())
    first, *others = points
    ratios = [
        (places[name][axis] - places[first][axis]) / (sign * (points[name][key] - points[first][key]))
        for name in others for axis, key, sign in ((0, "x", 1), (1, "y", -1))
    ]  # fmt: skip
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-6)
    rows = page.locator("#map-table tbody tr").evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    assert rows == [[name, each["nearest"], f"{each['distance']:.3f}"] for name, each in points.items()]
    assert page.url.endswith("#tab-map")


def test_nothing_hinders_access(open_page: Callable[..., Any], site: tuple[str, App]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe: pip install '.[dev]'").Axe()

    def violations(scheme: str, *rules: str) -> list[tuple[str, str]]:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        broken = axe.run(page, options={"runOnly": rules}).response["violations"]
        return [(each["id"], node["html"]) for each in broken for node in each["nodes"]]

    # axe makes HTML of its own texts, which the page's policy forbids.
    page = open_page(site[0], bypass_csp=True)
    page.wait_for_selector(".best")
    page.click("#key-button")
    page.locator(".card summary").first.click()
    page.click("#tab-map")
    page.wait_for_selector("#map circle")
    page.click("#tab-column")
    page.fill("#column", TEXT)
    page.click("#column-form [type=submit]")
    page.wait_for_selector("#column-table td")
    page.evaluate("document.querySelectorAll('[role=tabpanel]').forEach((panel) => { panel.hidden = false; })")
    assert violations("light", "wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice") == []
    assert violations("dark", "color-contrast") == []
    page.add_style_tag(content=".quiet { color: #444 }")
    assert violations("dark", "color-contrast")  # the check does see colors


def test_it_fits_a_phone(open_page: Callable[..., Any], site: tuple[str, App]) -> None:
    page = open_page(site[0], viewport={"width": 320, "height": 640})
    page.wait_for_selector(".best")
    for view in ("text", "column", "map"):
        page.click(f"#tab-{view}")
        assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_generated_text_appears_piece_by_piece(
    open_page: Callable[..., Any], generator: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, stream = threading.Event(), Task.stream

    def held(self: Any, text: str, **options: Any) -> Any:
        result = stream(self, text, **options)
        pieces = result._pieces

        def slowly() -> Iterator[str]:
            yield next(pieces)
            may_go_on.wait(10)
            yield from pieces

        result._pieces = slowly()
        return result

    monkeypatch.setattr(Task, "stream", held)
    with http.listening(generator) as (url, app):
        tasks = [task["task"] for task in app.get("/tasks").json["tasks"] if task["answer"] == "generation"]
        name = tasks[0]
        page = open_page(url)
        page.fill("#text", "Once upon a time")
        page.wait_for_selector(f".card[data-task={name}] >> text=Press Answer to generate a text.")
        page.click("#ask [type=submit]")
        output = card(page, name).locator(".output")
        page.wait_for_function("name => document.querySelector(`[data-task=${name}] .output`)?.textContent", arg=name)
        first = output.inner_text()
        assert card(page, name).get_attribute("aria-busy") == "true"
        assert card(page, name).locator(".facts").inner_text().startswith("first piece ")
        may_go_on.set()
        page.wait_for_function("() => !document.querySelector('[aria-busy]')")
        whole = asked(app, "Once upon a time", name)[0]
        assert output.text_content() == whole["output"]
        assert whole["output"].startswith(first)
        assert len(first) < len(whole["output"])
        assert card(page, name).locator(".facts").inner_text().startswith(f"{whole['new_tokens']} token")
        may_go_on.clear()
        page.click("#ask [type=submit]")
        card(page, name).get_by_role("button", name="Stop").click()
        page.wait_for_selector(f".card[data-task={name}]:not([aria-busy])")
        assert output.text_content() in ("", first)
        may_go_on.set()


def test_keys_open_the_page_and_an_admin_key_installs(
    open_page: Callable[..., Any], folder: Path, task_file: Callable[..., Path], tmp_path: Path, problems: list[str]
) -> None:
    (tmp_path / "keys").write_text(f"{USER}\nadmin:{ADMIN}\n")
    fresh = task_file("fresh")
    with http.listening(mpt_edge.load(folder, threads=1), keys=Keys.read(tmp_path / "keys")) as (url, app):
        page = open_page(url)
        page.wait_for_selector("#notice >> text=there is no key")
        page.keyboard.type(USER)  # the field has the focus
        page.keyboard.press("Enter")
        page.wait_for_selector(".card[data-task=topic] .best")
        assert page.locator("#notice").is_hidden()
        assert page.locator("#may-change").inner_text() == "This needs an admin key."
        drop(page, fresh)
        page.wait_for_selector("#install-status.error >> text=this request may not change tasks")
        page.click("#key-button")
        page.fill("#key", ADMIN)
        page.keyboard.press("Enter")
        page.wait_for_selector("#may-change >> text=reference example")
        drop(page, fresh)
        page.wait_for_selector("#install-status >> text=installed fresh, version 1")
        card(page, "fresh").locator(".best").wait_for()
        app.headers["authorization"] = f"Bearer {USER}"
        assert scores(page, "fresh") == asked(app, page.input_value("#text"), "fresh")[0]["scores"]
        page.set_input_files("#task-file", {"name": "no.safetensors", "mimeType": "", "buffer": b"no task"})
        page.wait_for_selector("#install-status.error >> text=the upload")
    statuses = [re.search(r"status of (\d+)", each)[1] for each in problems]
    assert set(statuses) == {"401", "403", "422"}  # the console names refused requests, and has nothing else
    problems.clear()


def drop(page: Any, file: Path) -> None:
    """Drop a file on the page, as a file manager does."""
    transfer = page.evaluate_handle(
        """([bytes, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name));
            return transfer;
        }""",
        [list(file.read_bytes()), file.name],
    )
    for event in ("dragover", "drop"):
        page.dispatch_event("#drop", event, {"dataTransfer": transfer})
