"""How the HTTP interface is used: a page without scripts that needs no other host, and its OpenAPI part."""

from html import escape
from typing import Any

from app.limits import Limits

FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
WORDS: dict[str, dict[str, Any]] = {
    "weights": {"type": "string", "description": "one weight for each reference, such as 0.7,0.3: a blend"},
    "voice": {"type": "string", "description": "an answer of /api/voice, instead of references"},
    "pitch": {"type": "number", "description": "semitones, beyond the voice's own; within 36 of 0"},
    "rate": {"type": "string", "description": "Hz of the result, or 'source'; else the converter's"},
    "format": {"type": "string", "enum": ["wav", "flac"]},
}


def _form(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


OPENAPI = {
    "convert": _form({"source": FILES["items"], "reference": FILES, **WORDS}, ["source"]),
    "voice": _form({"reference": FILES, "weights": WORDS["weights"]}, ["reference"]),
}
ANSWERS = (
    ("200", "the recording, or JSON"),
    ("400", "the form is broken, lacks a file or has an unknown field"),
    ("403", "another site asked in a visitor's browser, or the host name is foreign"),
    ("408", "the upload was too slow"),
    ("413", "a recording or the whole request is larger or longer than allowed"),
    ("415", "the request is no multipart form, or a file is no audio"),
    ("422", "a recording is cut short, silent, too short or holds NaN; a number is out of range"),
    ("503", "too many wait: the header Retry-After says how many seconds to wait"),
)


def docs_page(limits: Limits, sample_rate: int) -> str:
    """The page."""
    rows = "".join(f"<tr><td>{status}<td>{escape(meaning)}" for status, meaning in ANSWERS)
    fields = "".join(
        f"<tr><td><code>{name}</code><td>{escape(about.get('description', 'wav (default) or flac'))}"
        for name, about in WORDS.items()
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>HTTP interface</title>
<meta name="viewport" content="width=device-width">
<style>body{{font:16px/1.5 sans-serif;max-width:46em;margin:2em auto;padding:0 1em}}
pre,code{{background:#eee;color:#111}}pre{{padding:.7em;overflow:auto}}td{{padding:.1em .8em .1em 0}}</style>
<h1>HTTP interface</h1>
<p>Convert only voices whose owners agreed to it. Nothing you send is kept.</p>
<h2>POST /api/convert</h2>
<pre>curl -f -F source=@me.wav -F reference=@her.wav -o as_her.wav \\
     http://127.0.0.1:7860/api/convert</pre>
<p>A multipart form: one file <code>source</code>, one file <code>reference</code> or more, and if wanted</p>
<table>{fields}</table>
<p>The answer is as long as the source, mono, {sample_rate} Hz unless a rate is asked for. Its headers are
<code>X-Audio-Seconds</code>, <code>X-Waited-Seconds</code> (in line), <code>X-Worked-Seconds</code>,
<code>X-Watermark</code> and <code>X-Request-Id</code>.</p>
<h2>POST /api/voice</h2>
<pre>curl -f -F reference=@her.wav -o her.json http://127.0.0.1:7860/api/voice
curl -f -F source=@me.wav -F 'voice=&lt;her.json' -o as_her.wav http://127.0.0.1:7860/api/convert</pre>
<p>A voice to be used again, by the same converter.</p>
<h2>GET /api/health, /api/limits, /api/openapi.json</h2>
<p>Now: {limits.max_mb:g} MB a request, {limits.max_seconds:g} s a recording, {limits.max_references}
references, {limits.upload_seconds:g} s for an upload, {limits.queue} may wait.</p>
<h2>Answers</h2>
<table>{rows}</table>
<p>Every answer that is no result is JSON:
<code>{{"error": "a sentence", "request": "its number"}}</code>.</p>
</html>"""
