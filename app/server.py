"""The application: the HTTP interface, the page, and the guard before both."""

import asyncio
import logging
import os
import warnings
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from app.api import Interface
from app.conversions import Conversions
from app.limits import BusyError, error_body, status_of
from app.middleware import GuardMiddleware
from engine.user_error import UserError


def application(
    conversions: Conversions,
    folder: Path,
    *,
    names: frozenset[str] | None = None,
    root_path: str = "",
    page: bool = True,
    card: Path | None = None,
) -> ASGIApp:
    """Put the server together.

    ``names`` are the host names it answers under (None: any); ``card`` is the model card's file, where the
    converter is not the released one.
    """
    interface = Interface(conversions, folder)
    app: Any = FastAPI(
        title="Voice conversion", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json"
    )
    app.include_router(interface.router)

    @app.exception_handler(UserError)
    async def mistaken(request: Request, mistake: UserError) -> Response:
        headers = {"Retry-After": str(interface.retry_after)} if isinstance(mistake, BusyError) else {}
        return _answer(request, status_of(mistake), str(mistake), headers)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, refusal: HTTPException) -> Response:
        return _answer(request, refusal.status_code, f"{refusal.detail}: see /api/docs", refusal.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, failure: Exception) -> Response:
        number = request.scope["state"]["request_id"]
        if not isinstance(failure, UserError):  # those come from the guard, which answers them itself
            logging.getLogger("uvicorn.error").error("request %s failed", number)
        return _answer(request, 500, "the server failed; its log tells more under the request's number")

    if page:
        app = with_page(app, conversions, root_path, card)
    return GuardMiddleware(app, conversions.limits, names, same_site=not root_path)


def with_page(
    app: FastAPI, conversions: Conversions, root_path: str = "", card: Path | None = None
) -> FastAPI:
    """Put the page at ``/``; whatever its visitors upload stays in the folder of the results."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # these are read when gradio is imported
    os.environ["GRADIO_TEMP_DIR"] = str(conversions.folder / "page")
    import gradio

    from app.page import build_page, mounted

    async def built() -> FastAPI:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="SSR mode")  # of a mode that nobody asked for
            return gradio.mount_gradio_app(
                app,
                build_page(conversions, card),
                path="/",
                root_path=root_path or None,
                max_file_size=conversions.limits.max_bytes,
                **mounted(),
            )

    # Where no event loop runs, gradio makes one for each page and never closes it.
    return asyncio.run(built())


def _answer(request: Request, status: int, sentence: str, headers: Any = None) -> Response:
    number = request.scope["state"]["request_id"]
    return Response(error_body(sentence, number), status, dict(headers or {}), "application/json")
