import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, DjangoDbBlocker

from providers.changelog import ChangeLog
from providers.changes import Change
from providers.models import ModelAlias
from tests.providers.conftest import Clock


def change(object_id: str, **fields: object) -> Change:
    return Change.objects.create(kind="modelalias", object_id=object_id, **fields)


def test_each_change_is_news_once(db: None) -> None:
    log = ChangeLog()
    change("before")
    assert log.restart() == {("modelalias", "before")}
    assert log.news() == set()
    change("a"), change("b"), change("a")
    assert log.news() == {("modelalias", "a"), ("modelalias", "b")}
    assert log.news() == set()


def test_a_lower_id_that_becomes_visible_later_is_news(db: None, clock: Clock) -> None:
    log = ChangeLog(clock.monotonic)
    log.restart()
    late = change("late")
    number = late.id
    late.delete()
    change("early")
    assert log.news() == {("modelalias", "early")}
    clock.move(59)
    change("late", id=number)
    assert log.news() == {("modelalias", "late")}


def test_what_was_seen_more_than_a_minute_ago_is_no_longer_remembered_one_by_one(db: None, clock: Clock) -> None:
    log = ChangeLog(clock.monotonic)
    log.restart()
    for number in range(50):
        change(str(number))
    assert len(log.news()) == 50
    clock.move(61)
    change("new")
    assert log.news() == {("modelalias", "new")}
    assert len(log._seen) == 1
    assert log.news() == set()


def test_a_look_that_finds_nothing_is_one_query(db: None, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    log = ChangeLog()
    log.restart()
    with django_assert_num_queries(1):
        log.news()


def test_a_restart_remembers_the_last_minute_only(db: None, clock: Clock) -> None:
    change("old", at=timezone.now() - timedelta(seconds=90))
    change("recent")
    log = ChangeLog(clock.monotonic)
    assert log.restart() == {("modelalias", "recent")}
    assert len(log._seen) == 1


def test_a_database_that_was_put_back_gives_its_ids_out_again(db: None) -> None:
    log = ChangeLog()
    change("a", id=500)
    log.restart()
    Change.objects.all().delete()
    change("b", id=7)
    assert log.restart() == {("modelalias", "b")}
    change("c", id=8)
    assert log.news() == {("modelalias", "c")}


def test_changes_of_more_than_a_day_ago_are_pruned(db: None, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    change("old", at=timezone.now() - timedelta(hours=25))
    change("young", at=timezone.now() - timedelta(hours=23))
    log = ChangeLog()
    log.prune()
    assert list(Change.objects.values_list("object_id", flat=True)) == ["young"]
    with django_assert_num_queries(1):
        log.prune()


@pytest.mark.postgres
def test_on_postgresql_a_transaction_that_commits_late_is_not_lost(
    postgres: None, django_db_blocker: DjangoDbBlocker
) -> None:
    log = ChangeLog()
    log.restart()
    wrote, may_commit = threading.Event(), threading.Event()

    def write_slowly() -> None:
        with django_db_blocker.unblock(), transaction.atomic():
            ModelAlias.objects.create(name="late")
            wrote.set()
            may_commit.wait(10)
        connection.close()

    thread = threading.Thread(target=write_slowly)
    thread.start()
    assert wrote.wait(10)
    early = ModelAlias.objects.create(name="early")
    assert log.news() == {("modelalias", early.id)}
    may_commit.set()
    thread.join(10)
    late = ModelAlias.objects.get(name="late")
    ids = dict(Change.objects.values_list("object_id", "id"))
    assert ids[late.id] < ids[early.id]
    assert log.news() == {("modelalias", late.id)}
