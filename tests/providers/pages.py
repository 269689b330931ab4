"""The admin as an operator's browser sees it: addresses, pages, and what a form complains of."""

import re
from typing import Any

from django.urls import reverse


def url(page: str, *args: str) -> str:
    return reverse(f"admin:providers_{page}", args=args)


def page(response: Any) -> str:
    assert response.status_code == 200
    return str(response.content.decode())


def errors(response: Any) -> list[str]:
    return re.findall(r'<ul class="errorlist[^"]*"[^>]*><li>(.*?)</li>', page(response))
