"""The cold start's baseline: Django with its admin and one ninja endpoint, then the first poll."""

import asyncio
import os
import sys
from typing import Any

from django.conf import settings

CONTRIB = [
    f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages", "staticfiles")
]
MIDDLEWARE = (
    *("middleware.security.Security", "contrib.sessions.middleware.Session", "middleware.common.Common"),
    *("middleware.csrf.CsrfView", "contrib.auth.middleware.Authentication", "contrib.messages.middleware.Message"),
    "middleware.clickjacking.XFrameOptions",
)
CONTEXT = ("template.context_processors.request", "contrib.auth.context_processors.auth")


def configure(engine: str) -> None:
    database: dict[str, Any] = {"ENGINE": f"django.db.backends.{engine}", "NAME": "none"}
    processors = [*CONTEXT, "contrib.messages.context_processors.messages"]
    settings.configure(
        SECRET_KEY="only-for-a-benchmark",
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=[*CONTRIB, "ninja"],
        MIDDLEWARE=[f"django.{name}Middleware" for name in MIDDLEWARE],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {"context_processors": [f"django.{name}" for name in processors]},
            }
        ],
        DATABASES={"default": database if engine != "dummy" else {}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )


async def poll() -> None:
    host, _, port = os.environ["AWS_LAMBDA_RUNTIME_API"].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: runtime\r\n\r\n")
    await reader.read()


if __name__ == "__main__":
    configure(sys.argv[1])
    from django.core.asgi import get_asgi_application

    application = get_asgi_application()
    from django.contrib import admin
    from django.http import HttpRequest
    from django.urls import get_resolver, path
    from ninja import NinjaAPI

    api = NinjaAPI()

    @api.get("/echo")
    def echo(request: HttpRequest, number: int = 1) -> dict[str, int]:
        return {"number": number}

    urlpatterns = [path("admin/", admin.site.urls), path("api/", api.urls)]
    assert get_resolver().url_patterns
    asyncio.run(poll())
