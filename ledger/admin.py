"""The usage rows as an operator looks at them: read only, and fast whatever their number."""

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from ledger import capture_admin, enduser_admin, export, money, money_admin
from ledger.models import UsageRecord
from providers.admin.cells import two_lines
from providers.models import ClientKey, ModelAlias

if TYPE_CHECKING:  # generic for the type checker alone
    _Paginator = Paginator[UsageRecord]
    _ModelAdmin = admin.ModelAdmin[UsageRecord]
else:
    _Paginator, _ModelAdmin = Paginator, admin.ModelAdmin

__all__ = ["UsageRecordAdmin", "capture_admin", "enduser_admin", "money_admin"]

COUNTED = 10_000
CHOICES = 200
OUTCOMES = (
    "ok",
    "error",
    "client_cancelled",
    "truncated",
    "upstream_error",
    "upstream_timeout",
    "upstream_unreachable",
    "lost",
)
STATUSES = (("2", "2xx"), ("4", "4xx"), ("5", "5xx"), ("0", "none"))


class BoundedPaginator(_Paginator):
    """Counts no further than 10,000 rows; what is older is found by the filters and the search."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        counted: int = rows.order_by()[:COUNTED].count()
        return counted


class KeyFilter(admin.SimpleListFilter):
    """The configured keys: to ask the rows for the keys that stand in them would read them all."""

    title = "key"
    parameter_name = "key"

    def lookups(self, request: HttpRequest, model_admin: "admin.ModelAdmin[Any]") -> list[tuple[str, str]]:
        # With their ids: a key and its successor have one name.
        return [(key.id, str(key)) for key in ClientKey.objects.order_by("name", "id").only("id", "name")[:CHOICES]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        return queryset if self.value() is None else queryset.filter(key_id=self.value())


class AliasFilter(admin.SimpleListFilter):
    title = "alias"
    parameter_name = "alias"

    def lookups(self, request: HttpRequest, model_admin: "admin.ModelAdmin[Any]") -> list[tuple[str, str]]:
        names = ModelAlias.objects.order_by("name").values_list("name", flat=True)[:CHOICES]
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        return queryset if self.value() is None else queryset.filter(alias=self.value())


class OutcomeFilter(admin.SimpleListFilter):
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: "admin.ModelAdmin[Any]") -> list[tuple[str, str]]:
        return [(outcome, outcome.replace("_", " ")) for outcome in OUTCOMES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        return queryset if self.value() is None else queryset.filter(outcome=self.value())


class StatusFilter(admin.SimpleListFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: "admin.ModelAdmin[Any]") -> Iterable[tuple[str, str]]:
        return STATUSES

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        value = self.value()
        if value not in dict(STATUSES):
            return queryset
        first = int(value or 0) * 100
        return queryset.filter(status__gte=first, status__lt=first + 100)


@admin.register(UsageRecord)
class UsageRecordAdmin(_ModelAdmin):
    # As much as fits a screen of 1280 pixels; the rest of a row is on its own page.
    list_display = ("when", "key_name", "asked", "ended", "tokens", "price", "duration")
    list_display_links = ("when",)
    list_filter = ("flagged", "started_at", OutcomeFilter, StatusFilter, KeyFilter, AliasFilter)
    list_per_page = 50
    list_max_show_all = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # each facet would count all rows
    paginator = BoundedPaginator
    search_fields = ("id__exact", "key_id__exact")
    search_help_text = "A request id or a key id, whole."
    # Only by what has an index.
    sortable_by = ("when",)
    actions = ("export_csv",)
    fieldsets = (
        (None, {"fields": ("id", "started_at", "outcome", "status", "error_code", "flagged")}),
        (
            "Who asked for what",
            {
                "fields": (
                    *("key_name", "key_id", "team_name", "team_id", "user_page"),
                    *("endpoint", "alias", "model", "stream", "cache"),
                )
            },
        ),
        ("Who answered", {"fields": ("provider", "upstream_model", "upstream_request_id", "sent", "attempt_table")}),
        (
            "Tokens",
            {
                "fields": (
                    *("tokens_in", "tokens_cached", "tokens_cache_write"),
                    *("tokens_out", "tokens_reasoning", "usage_source"),
                )
            },
        ),
        ("Money", {"fields": ("cost", "price_source", "saved", "reserved", "credits", "accounts")}),
        ("Time and size", {"fields": ("ttft_ms", "duration_ms", "bytes_out")}),
    )

    class Media:
        css: ClassVar[dict[str, list[str]]] = {"all": ["providers/admin.css"]}

    @admin.display(description="started at (UTC)", ordering="started_at")
    def when(self, row: UsageRecord) -> str:
        return f"{row.started_at:%Y-%m-%d %H:%M:%S}"

    @admin.display(description="alias, answered by")
    def asked(self, row: UsageRecord) -> SafeString:
        return two_lines(row.alias or row.model, ": ".join(filter(None, (row.provider, row.upstream_model))))

    @admin.display(description="outcome")
    def ended(self, row: UsageRecord) -> SafeString:
        """The status that the client was given stands beside it where it says something more."""
        said = row.outcome.replace("_", " ")
        if row.status and row.outcome != "ok":
            said = f"{said} ({row.status})"
        return format_html("{}<br><strong>{}</strong>" if row.flagged else "{}", said, "needs a look")

    @admin.display(description="tokens in/out")
    def tokens(self, row: UsageRecord) -> str:
        return f"{row.tokens_in:,} / {row.tokens_out:,}"

    @admin.display(description="cost (USD)")
    def price(self, row: UsageRecord) -> str:
        return "unknown" if row.cost is None else money.text(row.cost)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: UsageRecord | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: UsageRecord | None = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: UsageRecord | None = None) -> list[str]:
        return [*(field.name for field in UsageRecord._meta.fields), "attempt_table", "user_page"]

    @admin.display(description="end user")
    def user_page(self, row: UsageRecord) -> SafeString | str:
        return enduser_admin.link(row.end_user)

    @admin.action(description="Export the selected rows as CSV", permissions=["view"])
    def export_csv(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> StreamingHttpResponse:
        answer = StreamingHttpResponse(export.pieces(queryset), content_type="text/csv; charset=utf-8")
        answer.headers["content-disposition"] = 'attachment; filename="usage.csv"'
        return answer

    @admin.display(description="duration")
    def duration(self, row: UsageRecord) -> str:
        return f"{row.duration_ms / 1000:.2f} s"

    @admin.display(description="attempts")
    def attempt_table(self, row: UsageRecord) -> SafeString | str:
        """What stands in the row was said by providers: every cell is escaped."""
        attempts = [attempt for attempt in row.attempts if isinstance(attempt, dict)]
        if not attempts:
            return "none"
        columns = list(dict.fromkeys(name for attempt in attempts for name in attempt))
        head = format_html_join("", "<th>{}</th>", ((name,) for name in columns))
        body = format_html_join(
            "",
            "<tr>{}</tr>",
            (
                (format_html_join("", "<td>{}</td>", ((attempt.get(name, ""),) for name in columns)),)
                for attempt in attempts
            ),
        )
        return format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", head, body)
