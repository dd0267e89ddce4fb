"""The page in a real browser: Chromium, headless, against a server of this process."""

import shutil
import socket
import threading
import time
from contextlib import suppress
from types import SimpleNamespace
from urllib.parse import urlparse

import pytest
import torch
import uvicorn
from compressed import RECORDERS, put_av
from fastapi import FastAPI

from app.conversions import Conversions
from app.limits import Limits
from app.page_voice import Wanted
from data.audio import Writer, info, load, resample
from w2w.converter import Converter
from w2w.networks.network import ConverterNetwork

pytest.importorskip("gradio", reason="the app needs gradio")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
    "--autoplay-policy=no-user-gesture-required",
]
RATE, SOURCE_S, MAX_S = 16_000, 1.5, 5.5
WAIT_MS = 120_000
SUMMARY = "words => document.querySelector('#summary').innerText.includes(words)"
PLAY = """
async (address) => {
  const audio = new Audio(address);
  audio.muted = true;
  await audio.play();
  await new Promise((resolve, reject) => {
    audio.onended = resolve;
    audio.onerror = () => reject(new Error(audio.error.message));
  });
  return [audio.duration, audio.currentTime];
}
"""


@pytest.fixture(scope="module")
def files(buzz, tmp_path_factory):
    """Usable and unusable recordings."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("recordings")
    low, high = (row[None] for row in buzz(round(6.0 * RATE)))
    lengths = {"source": (low, SOURCE_S), "other": (high, 2.5), "voice": (high, 1.0), "long": (low, 6.0)}
    for name, (wave, seconds) in lengths.items():
        with Writer(folder / f"{name}.wav", RATE) as writer:
            writer.write(wave[..., : round(seconds * RATE)])
    inverted = torch.cat([low, -low], dim=1)[..., :RATE]
    with Writer(folder / "inverted.wav", RATE, channels=2) as writer:
        writer.write(inverted)
    (folder / "letter.wav").write_text("Dear all, this is no sound. " * 50)
    return SimpleNamespace(folder=folder, **{path.stem: path for path in folder.iterdir()})


@pytest.fixture(scope="module")
def server(tiny, files, tmp_path_factory):
    """A page of a tiny converter on a free port, and its conversions."""
    from app import live_tab
    from app.server import with_page

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("results")
    limits = Limits(max_seconds=MAX_S)
    with Conversions(Converter(ConverterNetwork(tiny())), limits, folder=folder) as conversions:
        # What is compiled at its first use is not what is tried here.
        wanted = Wanted(reference=str(files.voice), agreed=True)
        live_tab.begin(conversions, wanted, 48_000).convert(torch.zeros(1, 1, 4800))
        app = with_page(FastAPI(), conversions)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
        thread = threading.Thread(target=running.run)
        thread.start()
        while not running.started:
            time.sleep(0.05)
        yield SimpleNamespace(address=f"http://127.0.0.1:{port}/", conversions=conversions, folder=folder)
        running.should_exit = True
        thread.join()
    assert not [path for path in folder.rglob("*") if path.is_file()], "recordings outlive the server"


@pytest.fixture(scope="module")
def browser(server):  # whose event loop starts first
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visitor:
    """An isolated browser session that records every requested host."""

    def __init__(self, browser, address: str) -> None:
        self.context = browser.new_context(permissions=["microphone"])
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.asked: list[str] = []
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda channel: self.asked.append(channel.url))
        self.page.goto(address)
        self.page.wait_for_selector("#convert")

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *exception: object) -> None:
        self.context.close()

    def give(self, place, path) -> None:
        self.page.set_input_files(f"#{place} input[type=file]", str(path))
        self.page.wait_for_selector(f"#{place} input[type=file]", state="detached")

    def bring_voice(self, path) -> None:
        """Choose a recording's voice and confirm consent."""
        self.page.get_by_label("From recordings").check()
        self.give("reference", path)

    def agree(self) -> None:
        self.page.check("#agreed input")

    def convert(self) -> None:
        self.page.click("#convert")

    def result(self) -> str:
        """The address of the result."""
        self.page.wait_for_selector("#picture svg")
        link = self.page.wait_for_selector("#result a[download]", state="attached")
        return link.get_attribute("href")

    def message(self) -> str:
        """The page's error message."""
        return self.page.wait_for_selector(".toast-body").inner_text()

    def hosts(self) -> set[str | None]:
        return {urlparse(url).hostname for url in self.asked if urlparse(url).scheme not in ("blob", "data")}


@pytest.fixture
def visitor(browser, server):
    with Visitor(browser, server.address) as visitor:
        yield visitor


def test_upload_convert_and_listen(visitor, files):
    """The result plays to its end and is as long as the source; no other host is contacted."""
    visitor.give("source", files.source)
    visitor.bring_voice(files.voice)
    visitor.agree()
    visitor.convert()
    duration, played = visitor.page.evaluate(PLAY, visitor.result())
    assert duration == pytest.approx(SOURCE_S, abs=0.010)
    assert played == pytest.approx(SOURCE_S, abs=0.010)
    assert visitor.page.locator("#picture image").count() == 2
    assert "1.5 s of speech" in visitor.page.inner_text("#summary")
    assert visitor.page.is_enabled("#judge")
    visitor.page.get_by_role("link", name="Model card", exact=True).click()
    visitor.page.wait_for_selector("#card h1")
    assert visitor.hosts() == {"127.0.0.1"}


def test_one_click_converts_on_a_phone(visitor):
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    visitor.convert()
    duration, played = visitor.page.evaluate(PLAY, visitor.result())
    assert duration == played > 4
    visitor.page.get_by_label("ivan").check()
    visitor.page.wait_for_selector("#portrait img[alt~=ivan]")
    for tab in ("Live", "A recording"):
        visitor.page.get_by_role("tab", name=tab).click()
        assert visitor.page.evaluate("document.documentElement.scrollWidth") == 390


def test_errors_are_shown_on_the_page(visitor, server, files):
    """Bad files, channels that cancel, and a voice without consent."""
    for name, words in (
        ("letter", "letter.wav is not audio"),
        ("long", "longer than the 5.5 s"),
        ("inverted", "inverted.wav: its channels cancel"),
    ):
        visitor.give("source", getattr(files, name))
        told = visitor.message()
        assert words in told
        assert str(server.folder) not in told
        visitor.page.locator(".toast-close").first.click()
        visitor.page.wait_for_selector(".toast-body", state="detached")
        visitor.page.locator("#source button[aria-label=Clear]").click()
    visitor.give("source", files.source)
    visitor.bring_voice(files.voice)
    visitor.convert()
    assert "tick" in visitor.message()
    assert not visitor.page.locator("#picture svg").count()


def test_concurrent_sessions_get_their_own_results(browser, server, files):
    sources = (files.source, files.other)
    with Visitor(browser, server.address) as one, Visitor(browser, server.address) as other:
        for visitor, source in zip((one, other), sources):
            visitor.give("source", source)
            visitor.bring_voice(files.voice)
            visitor.agree()
        for visitor in (one, other):
            visitor.convert()
        durations = [visitor.page.evaluate(PLAY, visitor.result())[0] for visitor in (one, other)]
    assert durations == pytest.approx([info(source).duration for source in sources], abs=0.010)


def test_audio_with_a_video_mime_type_is_converted(visitor, files, tmp_path):
    """Other formats are converted in the server's tests."""
    wave = load(files.source)
    for name in ("stereo.webm", "film.mp4"):
        channels, rate, *coding = RECORDERS[name]
        samples = resample(wave, RATE, rate)[0].expand(channels, -1).T.contiguous().numpy()
        put_av(tmp_path / name, samples, rate, *coding)
        visitor.give("source", tmp_path / name)
        visitor.convert()
        called = f"{name.rpartition('.')[0]}_converted.wav"
        visitor.page.wait_for_selector(f"#result a[download='{called}']", state="attached")
        assert f"{SOURCE_S} s of speech" in visitor.page.inner_text("#summary")
        visitor.page.locator("#source button[aria-label=Clear]").click()


def test_stopping_or_leaving_frees_the_queue(server, visitor, files, monkeypatch):
    """An endless conversion is ended by the stop button and by closing the page."""
    waits = []

    def endless(*args, done, **options):
        waits.append(True)
        while True:
            time.sleep(0.05)
            done(0.1)

    real = server.conversions.convert
    monkeypatch.setattr(server.conversions, "convert", endless)
    visitor.convert()
    visitor.page.wait_for_selector("#summary progress")
    for _ in range(20):  # on a busy machine the page shows progress before it can stop it
        visitor.page.click("#stop")
        with suppress(playwright.TimeoutError):
            visitor.page.wait_for_function(SUMMARY, arg="Stopped", timeout=WAIT_MS / 20)
            break
    else:
        pytest.fail("the conversion was not stopped")
    other = visitor.context.new_page()
    other.goto(server.address)
    other.click("#convert", timeout=WAIT_MS)
    other.wait_for_selector("#summary progress", timeout=WAIT_MS)
    other.close()
    assert len(waits) == 2
    monkeypatch.setattr(server.conversions, "convert", real)
    visitor.convert()
    visitor.page.wait_for_function(SUMMARY, arg="s of speech")


@pytest.mark.slow
def test_live_output_has_no_gaps(visitor, files):
    for attempt in range(4):  # the page's recorder is loaded late, and a click before that is lost
        visitor.bring_voice(files.voice)
        visitor.agree()
        visitor.page.get_by_role("tab", name="Live").click()
        visitor.page.wait_for_timeout(1000 * (attempt + 1))
        visitor.page.locator("#microphone").get_by_role("button", name="Record").click()
        with suppress(playwright.TimeoutError):
            visitor.page.wait_for_function("window.liveSpeech", timeout=6000)
            break
        visitor.page.reload()
    visitor.page.wait_for_function("window.liveSpeech.samples > 1.5 * window.liveSpeech.rate")
    visitor.page.locator("#microphone").get_by_role("button", name="Stop").first.click()
    visitor.page.wait_for_function("document.querySelector('#live').innerText.includes('Spoke for')")
    spoke = float(visitor.page.inner_text("#live").split("Spoke for")[1].split()[0])
    visitor.page.wait_for_function(
        "seconds => Math.abs(window.liveSpeech.samples / window.liveSpeech.rate - seconds) < 0.06", arg=spoke
    )
    assert visitor.hosts() == {"127.0.0.1"}
