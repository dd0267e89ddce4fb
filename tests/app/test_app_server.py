"""The HTTP interface of a real server process: results, errors, limits, clean-up."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
import soundfile
from compressed import RECORDERS, put_av

httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'timbre[dev]'")
pytest.importorskip("uvicorn", reason="the app is not installed: pip install 'timbre[app]'")

from benchmarks.app_abuse import ABUSES, answer, connected, head, posted, speech, tone  # noqa: E402
from benchmarks.app_load import load, row  # noqa: E402
from benchmarks.app_process import serving  # noqa: E402
from w2w.watermark.detection import detect  # noqa: E402

LIMITS = ["--max-mb", "1", "--max-seconds", "10", "--upload-seconds", "8", "--idle-seconds", "2"]


@pytest.fixture(scope="module")
def server():
    with serving("--no-page", "--queue", "15", *LIMITS) as process:
        yield process


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def files(*sources, reference=None):
    reference = tone(1.0) if reference is None else reference
    return [*(("source", ("s", source)) for source in sources), ("reference", ("r", reference))]


def comes(true) -> bool:
    """Wait until a condition holds; a busy machine may need long."""
    until = time.monotonic() + 60
    while not (found := true()) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def read(answer):
    assert answer.status_code == 200, answer.text
    return soundfile.read(BytesIO(answer.content), dtype="float32")


@pytest.mark.parametrize(("rate", "kind"), [(None, "wav"), ("source", "flac"), ("48000", "wav")])
def test_response_is_as_long_as_its_source(client, rate, kind):
    words = {"format": kind} | ({"rate": rate} if rate else {})
    answer = client.post("/api/convert", files=files(tone(1.2345, rate=22_050)), data=words)
    wave, own_rate = read(answer)
    assert own_rate == {None: 16_000, "source": 22_050, "48000": 48_000}[rate]
    assert abs(len(wave) / own_rate - 1.2345) < 1e-3
    assert answer.headers["content-type"] == f"audio/{kind}"
    assert abs(float(answer.headers["x-audio-seconds"]) - 1.2345) < 1e-3
    assert float(answer.headers["x-worked-seconds"]) > 0
    assert len(answer.headers["x-request-id"]) == 12


def test_response_equals_the_commands_output_and_is_watermarked(client, tmp_path):
    import torch

    from w2w.convert import main

    (tmp_path / "source.wav").write_bytes(tone(4.0))
    (tmp_path / "reference.wav").write_bytes(tone(1.0))
    wave, _ = read(client.post("/api/convert", files=files(tone(4.0)), data={"pitch": "3"}))
    names = [str(tmp_path / name) for name in ("source.wav", "reference.wav", "out.wav")]
    main([names[0], "--reference", names[1], "--out", names[2], "--pitch", "3"])
    theirs, _ = soundfile.read(names[2], dtype="float32")
    assert abs(wave - theirs).max() <= 1 / 32_768
    assert detect([torch.from_numpy(wave)[None, None]]).marked


def test_client_of_the_examples_converts(server, tmp_path):
    (tmp_path / "source.wav").write_bytes(tone(0.7))
    client = Path(__file__).parents[2] / "examples/http_client.py"
    command = [sys.executable, client, "source.wav", "source.wav", "out.wav", "--url", server.url]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert soundfile.info(tmp_path / "out.wav").frames == 0.7 * 16_000
    command[3] = client
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "415: reference is not audio" in refused.stderr


@pytest.mark.parametrize("name", RECORDERS)
def test_formats_of_browsers_phones_and_recorders_are_converted(client, tmp_path, name):
    channels, rate, *coding = RECORDERS[name]
    wave, _ = soundfile.read(
        BytesIO(tone(1.2, rate=rate, channels=channels)), dtype="float32", always_2d=True
    )
    put_av(tmp_path / name, wave, rate, *coding)
    heard, own_rate = read(client.post("/api/convert", files=files((tmp_path / name).read_bytes())))
    assert abs(len(heard) / own_rate - 1.2) < 0.06


def test_voice_response_can_be_reused(client):
    heard = client.post("/api/voice", files=files(reference=tone(2.0))).json()
    again = client.post("/api/convert", files=[("source", tone(1.0))], data={"voice": json.dumps(heard)})
    assert again.content == client.post("/api/convert", files=files(tone(1.0), reference=tone(2.0))).content


REFUSED = {
    "no source": (400, "one file source", files(), {}),
    "two sources": (400, "one file source", files(tone(0.2), tone(0.2)), {}),
    "no reference": (400, "at least one file reference", [("source", tone(0.2))], {}),
    "unknown field": (400, "field 'speed'", files(tone(0.2)), {"speed": "2"}),
    "empty file": (415, "source is empty", files(b""), {}),
    "silent voice": (422, "reference is silent", files(tone(1.0), reference=tone(1.0, rate=16_000) * 0), {}),
    "short source": (422, "at least 10 ms", files(tone(0.005)), {}),
    "long source": (413, "longer than the 10 s", files(tone(10.1, form="FLAC")), {}),
    "pitch": (422, "within 36", files(tone(0.2)), {"pitch": "1e9"}),
    "pitch NaN": (422, "within 36", files(tone(0.2)), {"pitch": "nan"}),
    "pitch in words": (422, "must be a number", files(tone(0.2)), {"pitch": "high"}),
    "rate": (422, "whole Hz", files(tone(0.2)), {"rate": "-1"}),
    "format": (422, "one of: wav, flac", files(tone(0.2)), {"format": "exe"}),
    "weights": (422, "one for each", files(tone(0.2)), {"weights": "1,2"}),
    "weights NaN": (422, "finite", files(tone(0.2)), {"weights": "nan"}),
    "voice": (422, "what /api/voice answers", [("source", tone(0.2))], {"voice": "[" * 9_000}),
    "foreign voice": (
        422,
        "another converter",
        [("source", tone(0.2))],
        {"voice": '{"voice": [1], "model": "x"}'},
    ),
    "both": (422, "not both", files(tone(0.2)), {"voice": "{}"}),
}
REFUSED["silent voice"][2][-1] = ("reference", ("r", tone(1.0)[:44] + bytes(32_000)))


@pytest.mark.parametrize("case", REFUSED)
def test_errors_are_one_sentence(client, server, case):
    status, words, sent, fields = REFUSED[case]
    answer = client.post("/api/convert", files=sent, data=fields)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert "\n" not in answer.json()["error"]
    assert str(server.folder) not in answer.text, "folders of the machine are nobody's business"
    assert answer.json()["request"] == answer.headers["x-request-id"]


def test_other_kinds_of_requests_are_refused(client):
    assert client.post("/api/convert", json={"source": "x"}).status_code == 415
    assert client.post("/api/convert").status_code == 415
    kind = {"content-type": "multipart/form-data"}
    assert client.post("/api/convert", content=b"x", headers=kind).status_code == 400
    assert client.get("/api/convert").status_code == 405
    assert client.get("/nothing").json()["error"]


@pytest.mark.parametrize(("abuse", "right"), ABUSES.values(), ids=ABUSES)
def test_abusive_requests_are_refused_and_cleaned_up(server, client, abuse, right):
    assert abuse(server) == right
    assert server.settled() == []
    assert comes(lambda: not client.get("/api/health").json()["working"]), "it works for a client that left"


def test_cross_site_requests_are_refused(client, server):
    stranger = {"origin": "http://elsewhere.example"}
    assert client.post("/api/convert", files=files(tone(0.2)), headers=stranger).status_code == 403
    own = {"origin": server.url}
    assert client.post("/api/convert", files=files(tone(0.2)), headers=own).status_code == 200
    assert client.get("/api/limits", headers={"host": "elsewhere.example"}).status_code == 403


def test_concurrent_clients_all_get_results(server):
    def ask(number):
        seconds = 0.3 + 0.05 * number
        with httpx.Client(base_url=server.url, timeout=60) as client:
            wave, rate = read(client.post("/api/convert", files=files(tone(seconds))))
        return abs(len(wave) / rate - seconds) < 1e-3

    with ThreadPoolExecutor(8) as clients:
        assert all(clients.map(ask, range(16)))
    assert server.settled() == []


def test_load_benchmark_counts_failures(server, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.wav").write_bytes(tone(0.5 + number / 10))
    good = sorted(tmp_path.iterdir())
    figures = row(load(server, good, clients=2, seconds=0.5, abuse=False))
    assert (figures["requests lost"], figures["temporary files left"]) == (0, 0)
    (bad := tmp_path / "bad.wav").write_bytes(b"no sound")
    assert len(load(server, [*good, bad], clients=2, seconds=0.5, abuse=False).lost) > 0


def test_full_queue_answers_with_retry_after(server, client):
    places = [connected(server) for _ in range(16)]
    for place in places:
        place.sendall(head(1_000))
    answers = []

    def refused() -> bool:
        answers.append(client.post("/api/convert", files=files(tone(0.2))))
        return answers[-1].status_code == 503

    assert comes(refused)
    assert int(answers[-1].headers["retry-after"]) >= 1
    for place in places:
        place.close()
    free = comes(lambda: posted(server, speech(tone(0.2))) == 200)
    assert free, "places are free again when their clients have left"


def test_docs_page_loads_nothing_from_other_hosts(client):
    page = client.get("/api/docs").text
    assert "curl" in page
    assert page.count("http") == page.count("http://127.0.0.1:7860")
    paths = client.get("/api/openapi.json").json()["paths"]
    assert set(paths) == {"/api/convert", "/api/voice", "/api/voices", "/api/health", "/api/limits"}
    assert client.get("/api/limits").json()["max_seconds"] == 10


def test_server_shuts_down_cleanly_during_a_conversion(server):
    """The last test of this file: it stops the server of the others."""
    working, uploading = connected(server), connected(server)
    body = speech(tone(9.0, form="FLAC"))
    working.sendall(head(len(body)) + body)
    uploading.sendall(head(len(body)) + body[:-9])
    time.sleep(0.05)
    assert server.stop() == 0
    assert answer(working) in (200, 503)
    assert answer(uploading) in (408, 503)
    assert list(server.folder.iterdir()) == []
    assert "Traceback" not in "".join(server.output)
