"""The ASGI application: `proxysite.asgi:application`, for `manage.py serve` and any other ASGI server."""

import os
import warnings

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxysite.settings")
# WhiteNoise answers with a file, which Django reads whole under ASGI; the admin's and the docs' files are small.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")
# Nobody has to run collectstatic: WhiteNoise finds the files in the packages.
warnings.filterwarnings("ignore", message="No directory at")
django.setup(set_prefix=False)

from django.conf import settings  # noqa: E402

from gateway.asgi import GatewayHandler  # noqa: E402
from gateway.engine import engine  # noqa: E402
from proxysite import start  # noqa: E402
from proxysite.lazypages import LazyPages  # noqa: E402
from proxysite.switchboard import Switchboard  # noqa: E402

# On Lambda most environments never see a page.
pages = LazyPages()
if not settings.ON_LAMBDA:
    pages.load()
guard = (settings.GATEWAY_METRICS_TOKEN, settings.GATEWAY_METRICS_FROM)
metrics = status = None
if any(guard):
    # Nor are these part of a start where nobody may read them.
    from proxysite.metricspage import MetricsPage
    from proxysite.statuspage import StatusPage

    metrics, status = MetricsPage(engine.observer.total, *guard), StatusPage(engine, *guard)
application = Switchboard(
    django=pages,
    gateway=GatewayHandler(),
    engine=engine,
    problems=start.problems,
    database=not settings.GATEWAY_STATELESS,
    metrics=metrics,
    status=status,
)
