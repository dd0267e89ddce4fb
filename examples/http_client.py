"""Converts by the app's HTTP interface: ``python examples/http_client.py me.wav her.wav as_her.wav``

Start the server by ``python -m app``. Needs httpx alone (pip install httpx), not this package.
"""

import argparse
import time
from pathlib import Path

import httpx


def convert(client: httpx.Client, source: str, references: list[str], *, pitch: float = 0.0) -> bytes:
    """Return the source spoken with the references' voice, as a WAV file's bytes."""
    files = [
        ("source", Path(source).read_bytes()),
        *(("reference", Path(name).read_bytes()) for name in references),
    ]
    while True:
        answer = client.post("/api/convert", files=files, data={"pitch": str(pitch)})
        if answer.status_code == 503:  # others wait already; the server says for how long
            time.sleep(float(answer.headers.get("Retry-After", 1)))
            continue
        if answer.is_error:
            raise SystemExit(f"{answer.status_code}: {answer.json()['error']}")
        return answer.content


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("reference", nargs="+")
    parser.add_argument("out")
    parser.add_argument("--pitch", type=float, default=0.0, help="semitones")
    parser.add_argument("--url", default="http://127.0.0.1:7860")
    args = parser.parse_args()
    with httpx.Client(base_url=args.url, timeout=600) as client:
        result = convert(client, args.source, args.reference, pitch=args.pitch)
    Path(args.out).write_bytes(result)


if __name__ == "__main__":
    main()
