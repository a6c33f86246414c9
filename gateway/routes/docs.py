"""`/docs` and `/openapi.json`. The page's assets are served from here, for it must work without the internet."""

from __future__ import annotations

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from gateway.errors import Problem

SWAGGER_UI_VERSION = "5.35.0"
_FOLDER = Path(__file__).parent.parent / "static" / "swagger-ui"
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_A_YEAR = {"Cache-Control": "public, max-age=31536000, immutable"}
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
async def get_openapi(request: Request) -> Response:
    return Response(orjson.dumps(request.app.openapi()), media_type="application/json")


@router.get("/docs")
async def get_docs(request: Request) -> Response:
    # Relative addresses: the page works behind a proxy's path, too.
    assets = f"static/{SWAGGER_UI_VERSION}"
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=request.app.title,
        swagger_js_url=f"{assets}/swagger-ui-bundle.js",
        swagger_css_url=f"{assets}/swagger-ui.css",
        swagger_favicon_url=f"{assets}/favicon-32x32.png",
        swagger_ui_parameters={"validatorUrl": None},  # it would send the page's address to swagger.io
    )
    page.headers["Content-Security-Policy"] = _policy(bytes(page.body))
    return page


@router.get("/static/{version}/{name}")
async def get_asset(version: str, name: str) -> Response:
    if version != SWAGGER_UI_VERSION or name not in _ASSETS:
        raise Problem("not_found", "There is no such file.")
    return Response(_read(name), media_type=_ASSETS[name], headers=_A_YEAR)


@cache
def _policy(page: bytes) -> str:
    """Nothing but what the page brings: its own script by hash, its assets, and calls to where it comes from."""
    scripts = [b64encode(sha256(script).digest()).decode() for script in _INLINE_SCRIPT.findall(page)]
    allowed = " ".join(f"'sha256-{script}'" for script in scripts)
    return (
        f"default-src 'none'; script-src 'self' {allowed}; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@cache
def _read(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()
