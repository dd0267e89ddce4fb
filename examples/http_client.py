"""Client of the app's HTTP interface: ``python examples/http_client.py me.wav her.wav as_her.wav``

Start the server with ``python -m app``. It needs only httpx (pip install httpx), not this package.
"""

import argparse
import time
from pathlib import Path

import httpx


def convert(client: httpx.Client, source: str, references: list[str], *, pitch: float = 0.0) -> bytes:
    """Convert the source to the references' voice; return the bytes of a WAV file."""
    files = [
        ("source", Path(source).read_bytes()),
        *(("reference", Path(name).read_bytes()) for name in references),
    ]
    while True:
        answer = client.post("/api/convert", files=files, data={"pitch": str(pitch)})
        if answer.status_code == 503:  # the queue is full; the server estimates the waiting time
            time.sleep(float(answer.headers.get("Retry-After", 1)))
            continue
        if answer.is_error:
            about = answer.headers.get("Content-Type", "")
            message = (
                answer.json()["error"]
                if about.startswith("application/json")
                else "not a server of python -m app"
            )
            raise SystemExit(f"{answer.status_code}: {message}")
        return answer.content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("reference", nargs="+")
    parser.add_argument("out")
    parser.add_argument("--pitch", type=float, default=0.0, help="pitch shift in semitones")
    parser.add_argument("--url", default="http://127.0.0.1:7860")
    args = parser.parse_args()
    try:
        with httpx.Client(base_url=args.url, timeout=600) as client:
            result = convert(client, args.source, args.reference, pitch=args.pitch)
        Path(args.out).write_bytes(result)
    except httpx.ConnectError:
        raise SystemExit(f"no server answers at {args.url}: start it with `python -m app`") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SystemExit(f"{args.url}: {error or type(error).__name__}") from None
    except OSError as error:
        raise SystemExit(f"{error.filename}: {error.strerror}") from None


if __name__ == "__main__":
    main()
