"""Serve the converter on this machine: ``python -m app``

    python -m app                                   page at http://127.0.0.1:7860; HTTP interface at /api/docs
    python -m app --port 8000 --max-seconds 120     other port and limits
    python -m app --host 0.0.0.0                    for everyone who can reach this machine

No data leaves the host. Uploads are kept until they are answered (the page's: up to an hour) in a private
folder, which is deleted when the server stops. There is no login: to serve other people, put a proxy with
authentication in front (``--root-path`` is the URL prefix it uses).
"""

import fcntl
import logging
import os
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from app.conversions import Conversions
from app.limits import Limits
from engine.arguments import Arguments
from engine.outcome import stop_signals
from engine.user_error import UserError, exits_cleanly
from w2w.converter import Converter
from w2w.weights import weights_folder

PREFIX = "timbre-app-"
LOCK = ".lock"
"""Lock file of a running server; the system releases the lock when the process dies."""


@contextmanager
def private_folder(where: Path | None = None) -> Iterator[Path]:
    """Create a folder for a server's files in ``where`` (default: the system's temporary folder).

    It is deleted on exit; on entry, the folders of killed servers are deleted.
    """
    where = where or Path(tempfile.gettempdir())
    delete_stale_folders(where)
    folder, lock = _locked(where)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def delete_stale_folders(where: Path) -> None:
    """Delete the folders of this user's servers that no longer run."""
    for folder in where.glob(f"{PREFIX}*"):
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
            continue
        lock = _try_lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def delete_old_files(folder: Path, seconds: float) -> None:
    """Delete files in a folder, at any depth, last modified more than ``seconds`` ago.

    Gradio keeps incomplete uploads and unused results.
    """
    for path in folder.rglob("*"):
        with suppress(OSError):  # other threads delete files, too
            if path.is_file() and time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def _locked(where: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))  # readable only by this user
        lock = _try_lock(folder)
        if lock is not None and folder.exists():  # otherwise another server's sweep deleted it in between
            return folder, lock
        if lock is not None:
            os.close(lock)


def _try_lock(folder: Path) -> int | None:
    try:
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


KEPT_S = 3_600
"""Seconds for which the page's files are kept."""
SWEEP_S = 60.0
"""Seconds between two deletions of old files."""
GRACE_S = 10
"""Seconds that open requests may take to finish when the server stops."""


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    limits = Limits(**{name: getattr(args, name) for name in LIMITS})
    with bind(args.host, args.port) as listener:
        try:
            import uvicorn

            logging.getLogger("python_multipart").setLevel(logging.ERROR)  # clients' mistakes
            from app.server import LOOPBACK, application, with_idle_timeout
        except ModuleNotFoundError as missing:
            raise UserError(f"{missing.name} is not installed: pip install 'timbre[app]'") from None
        converter = Converter.from_pretrained(args.checkpoint)
        host, port = listener.getsockname()[:2]
        names = LOOPBACK | {host} if host in LOOPBACK and not args.root_path else None
        with private_folder() as folder:
            results = folder / "results"
            results.mkdir()
            with Conversions(converter, limits, not args.no_watermark, folder=results) as conversions:
                conversions.warm()
                app = application(
                    conversions,
                    folder,
                    names=names,
                    root_path=args.root_path,
                    page=not args.no_page,
                    card=weights_folder(args.checkpoint) / "README.md" if args.checkpoint else None,
                )
                config = uvicorn.Config(
                    app,
                    http=with_idle_timeout(limits.idle_seconds),
                    ws="none",
                    log_level="warning",
                    root_path=args.root_path,
                    limit_concurrency=limits.connections,
                    timeout_graceful_shutdown=GRACE_S,
                    server_header=False,
                    proxy_headers=bool(args.root_path),
                )
                serve(uvicorn.Server(config), listener, greeting(host, port, args), conversions)


def serve(server, listener: socket.socket, greeting: str, conversions: Conversions) -> None:
    """Run a uvicorn server until SIGINT or SIGTERM, then finish open requests."""
    swept = time.monotonic()
    with stop_signals() as received:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
        thread.start()
        while thread.is_alive() and not received:
            thread.join(0.1)
            if server.started and greeting:
                print(greeting, flush=True)
                greeting = ""
            if time.monotonic() - swept > SWEEP_S:
                delete_old_files(conversions.folder, KEPT_S)
                swept = time.monotonic()
        if not conversions.jobs.working:  # open pages never close their connections
            server.config.timeout_graceful_shutdown = 1
        server.should_exit = True
        thread.join()
    if not received:
        raise UserError("the server did not start, or stopped by itself; see the errors above")


def bind(host: str, port: int) -> socket.socket:
    """Bind the port before the converter is loaded."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"cannot serve at --host {host} --port {port} ({why}): choose another port, or 0 for any free one"
        ) from None
    return listener


def greeting(host: str, port: int, args: Namespace) -> str:
    place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    page = f"HTTP interface: {place}" if args.no_page else f"page: {place}"
    return f"{page}, documentation of the HTTP interface: {place}/api/docs; press Ctrl-C to stop"


LIMITS = {
    "max_mb": (float, "maximum size of a request in megabytes"),
    "max_seconds": (float, "maximum duration of a recording in seconds"),
    "upload_seconds": (float, "maximum duration of an upload in seconds"),
    "idle_seconds": (float, "seconds without data after which a connection is closed"),
    "queue": (int, "maximum number of waiting requests"),
    "workers": (int, "requests processed in parallel, one thread each"),
}
"""Options that are fields of ``Limits``."""


def parse(argv: Sequence[str] | None) -> Namespace:
    arguments = Arguments.described_by("app", __doc__)
    option = arguments.add_argument
    option("--host", default="127.0.0.1", help="address to serve at (default: 127.0.0.1, this machine only)")
    option("--port", type=int, default=7860, help="port; 0: any free one (default: 7860)")
    option(
        "--checkpoint",
        metavar="FOLDER",
        help="exported converter, or hub:owner/name (default: the released one)",
    )
    for name, (kind, about) in LIMITS.items():
        default = getattr(Limits(), name)
        words: dict[str, Any] = {"metavar": "N", "help": f"{about} (default: {default:g})"}
        option(f"--{name.replace('_', '-')}", type=kind, default=default, **words)
    option("--no-watermark", action="store_true", help="do not watermark results")
    option("--no-page", action="store_true", help="serve only the HTTP interface")
    option("--root-path", default="", metavar="PREFIX", help="URL prefix behind a proxy")
    args = arguments.parse_args(argv)
    if not 0 <= args.port < 65_536:
        raise UserError(f"--port {args.port} must be between 0 and 65535")
    if args.root_path and not args.root_path.startswith("/"):
        raise UserError(f"--root-path {args.root_path} must begin with a slash, such as /voices")
    if args.checkpoint and not Path(args.checkpoint).exists() and args.checkpoint.startswith((".", "/")):
        raise UserError(f"--checkpoint {args.checkpoint} does not exist")
    return args


if __name__ == "__main__":
    main()
    sys.exit(0)
