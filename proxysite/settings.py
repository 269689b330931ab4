"""All settings, from the environment (docs/settings.md). What an operator edits is a row in the admin, not here."""

from typing import Any

from proxysite import env
from proxysite.version import version

BASE_DIR = env.BASE_DIR
DEBUG = env.flag("DJANGO_DEBUG", default=False)
# The same, but for tests, which run with DEBUG off: secrets are made, loopback upstreams are allowed.
DEVELOPMENT = DEBUG
DATA_DIR = env.data_dir()
ON_LAMBDA = env.on_lambda()
GATEWAY_STATELESS = env.stateless()
GATEWAY_ADMIN = env.flag("GATEWAY_ADMIN", default=True) and not GATEWAY_STATELESS

# --- secrets: never derived from one another ------------------------------------------------------------------------
SECRETS = env.no_secrets() if GATEWAY_STATELESS else env.load_secrets(development=DEBUG)
SECRET_KEY = SECRETS.django_key
GATEWAY_ENCRYPTION_KEYS = SECRETS.encryption_keys
GATEWAY_KEY_PEPPERS = SECRETS.key_peppers

# --- logs: our own form for everybody's lines (proxysite/logs.py) -----------------------------------------------------
LOGGING_CONFIG = "proxysite.logs.configured"
LOGGING = {
    "form": env.choice("GATEWAY_LOG_FORMAT", ("json", "console"), "console" if DEBUG else "json"),
    "level": env.choice("GATEWAY_LOG_LEVEL", ("debug", "info", "warning", "error"), "info"),
}
GATEWAY_ACCESS_LOG = env.flag("GATEWAY_ACCESS_LOG", default=True)

# --- the building ----------------------------------------------------------------------------------------------------
ALLOWED_HOSTS = env.words("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
if ON_LAMBDA:
    ALLOWED_HOSTS += env.lambda_hosts()
CSRF_TRUSTED_ORIGINS = env.words("DJANGO_CSRF_TRUSTED_ORIGINS")
ROOT_URLCONF = "proxysite.urls"
ASGI_APPLICATION = "proxysite.asgi.application"
APPEND_SLASH = False
INSTALLED_APPS = [
    "proxysite.apps.ProxysiteConfig",
    "proxysite.adminsite.AdminConfig",  # whoever loads proxysite.urls has the admin found
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_object_actions",
    "simple_history",
    "django_ratelimit",
    "csp",
    "ninja",
    "providers.apps.ProvidersConfig",
    "ledger.apps.LedgerConfig",
    "gateway.apps.GatewayConfig",
    "console.apps.ConsoleConfig",
]
# For the admin and the other pages of Django only: the gateway's handler runs none of it (a hop to a thread each).
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "simple_history.middleware.HistoryRequestMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
if ON_LAMBDA:
    # Nothing but checks of what is written in this file, which take a hundredth of a start.
    INSTALLED_APPS.remove("csp")
if not GATEWAY_ADMIN:
    pages = ("proxysite.adminsite", "django_object", "console")
    INSTALLED_APPS = [name for name in INSTALLED_APPS if not name.startswith(pages)]
    for name in ("sessions.middleware.Session", "auth.middleware.Authentication", "messages.middleware.Message"):
        MIDDLEWARE.remove(f"django.contrib.{name}Middleware")
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG

# --- the database ----------------------------------------------------------------------------------------------------
DATABASE_URL = env.text("DATABASE_URL", f"sqlite:///{DATA_DIR / 'gateway.sqlite3'}")
DATABASES = {"default": env.reader.db_url_config(DATABASE_URL)}
if GATEWAY_STATELESS:
    DATABASES = {"default": {"ENGINE": "django.db.backends.dummy"}}
elif DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        # IMMEDIATE waits for the write lock at BEGIN; a deferred transaction that turns to writing fails at once.
        "transaction_mode": "IMMEDIATE",
        "timeout": 5,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
    # A file, and not in memory: the gateway's SQL thread has a connection of its own.
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}
    if not env.under_test():
        DATA_DIR.mkdir(parents=True, exist_ok=True)
else:
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
    DATABASES["default"].setdefault("OPTIONS", {}).update(
        {
            "connect_timeout": 5,
            # A server that has vanished: sent bytes are acknowledged within 3 s, a silent line is tried after 10 s.
            "tcp_user_timeout": 3000,
            "keepalives_idle": 10,
            "keepalives_interval": 3,
        }
    )

# --- counters of attempts: whole numbers only, whoever holds them --------------------------------------------------
REDIS_URL = env.text("REDIS_URL")
CACHES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "ratelimit": {"BACKEND": "proxysite.counters.SqlCounters"},
}
if REDIS_URL:
    CACHES["ratelimit"] = {"BACKEND": "proxysite.counters.RedisCounters", "LOCATION": REDIS_URL}
RATELIMIT_USE_CACHE = "ratelimit"
# That our back ends are not on the package's own list is known; that its check refuses others stays.
SILENCED_SYSTEM_CHECKS = ["django_ratelimit.W001"]

# --- safety of the pages ---------------------------------------------------------------------------------------------
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = env.flag("GATEWAY_HTTPS", default=ON_LAMBDA)
SECURE_HSTS_SECONDS = 31_536_000 if SESSION_COOKIE_SECURE else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = SESSION_COOKIE_SECURE
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
if env.number("GATEWAY_TRUSTED_PROXY_HOPS", 0):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    # Only where a proxy says which it was: without its word each redirect would lead to the next.
    SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "object-src": ["'none'"],
        "base-uri": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
}

# What an old record says of a row is there to read; putting it back would bring back limits and keys unseen.
SIMPLE_HISTORY_REVERT_DISABLED = True

# --- the gateway -----------------------------------------------------------------------------------------------------
GATEWAY_CONFIG = env.place("GATEWAY_CONFIG")
GATEWAY_CACHE_MEMORY = env.number("GATEWAY_CACHE_MEMORY", 64)
GATEWAY_CACHE_DATABASE = env.number("GATEWAY_CACHE_DATABASE", 1024)
GATEWAY_BUDGET = env.text("GATEWAY_BUDGET")
GATEWAY_DEFAULT_RPM = env.number("GATEWAY_DEFAULT_RPM", 600)
GATEWAY_DEFAULT_BUDGET = env.text("GATEWAY_DEFAULT_BUDGET", "50/month")
GATEWAY_DEFAULT_EXPIRES = env.text("GATEWAY_DEFAULT_EXPIRES", "365d")
GATEWAY_ALERT_WEBHOOK = env.text("GATEWAY_ALERT_WEBHOOK")
GATEWAY_ALERT_EMAILS = env.words("GATEWAY_ALERT_EMAILS")
GATEWAY_ALERT_VELOCITY = env.text("GATEWAY_ALERT_VELOCITY")
DEFAULT_FROM_EMAIL = env.text("GATEWAY_ALERT_FROM", "llm-gateway@localhost")
vars().update(env.mail_settings("GATEWAY_EMAIL_URL", "smtp://localhost:25", timeout=10))
GATEWAY_PRIVATE_UPSTREAMS = env.words("GATEWAY_PRIVATE_UPSTREAMS")
GATEWAY_TRUSTED_PROXY_HOPS = env.number("GATEWAY_TRUSTED_PROXY_HOPS", 0)
GATEWAY_METRICS_TOKEN = env.text("GATEWAY_METRICS_TOKEN")
GATEWAY_METRICS_FROM = env.words("GATEWAY_METRICS_FROM")
GATEWAY_EMF = env.flag("GATEWAY_EMF", default=ON_LAMBDA) and ON_LAMBDA
GATEWAY_EMF_NAMESPACE = env.text("GATEWAY_EMF_NAMESPACE", "LLMGateway")
GATEWAY_CAPTURE = env.flag("GATEWAY_CAPTURE", default=True) and not GATEWAY_STATELESS
GATEWAY_CAPTURE_BYTES = env.number("GATEWAY_CAPTURE_BYTES", 262_144)
GATEWAY_CAPTURE_DAYS = env.number("GATEWAY_CAPTURE_DAYS", 7)
GATEWAY_CAPTURE_PATTERNS = env.lines("GATEWAY_CAPTURE_PATTERNS")
GATEWAY_TRACEPARENT = env.words("GATEWAY_TRACEPARENT")
VERSION = version()
GATEWAY_REQUEST_ID_FROM = env.words("GATEWAY_REQUEST_ID_FROM")
OPENAI_SERVER_URL = env.text("OPENAI_SERVER_URL")
OPENAI_PROXY_URL = env.text("OPENAI_PROXY_URL")
