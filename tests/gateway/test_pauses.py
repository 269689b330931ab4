"""When a process rests, and when what it knows is stale: by wall time, since the other clock may stand still."""

from gateway.pauses import Pauses


class Wall:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_process_that_nobody_pauses_never_rests() -> None:
    pauses = Pauses(Wall())
    assert not pauses.resting
    assert pauses.begin() == 0.0
    assert not pauses.resting


def test_the_pause_begins_with_the_end_of_the_last_request_and_is_measured_by_the_wall_clock() -> None:
    wall = Wall()
    pauses = Pauses(wall)
    pauses.begin()
    pauses.begin()
    pauses.end()
    assert not pauses.resting
    wall.now += 5
    pauses.end()
    assert pauses.resting
    wall.now += 600
    assert pauses.begin() == 600.0
    assert not pauses.resting


def test_its_clock_passes_in_a_pause_in_which_the_monotonic_one_stands_still_and_never_goes_back() -> None:
    wall, monotonic = Wall(), Wall()
    pauses = Pauses(wall, monotonic)
    pauses.begin()
    pauses.end()
    wall.now, monotonic.now = wall.now + 600, monotonic.now + 2
    pauses.begin()
    assert pauses.clock() == 1600.0
    pauses.end()
    wall.now, monotonic.now = wall.now - 3600, monotonic.now + 5
    pauses.begin()
    assert pauses.clock() == 1605.0
    pauses.end()
    wall.now, monotonic.now = wall.now + 10, monotonic.now + 10
    pauses.begin()
    assert pauses.clock() == 1615.0


def test_a_request_that_failed_before_it_began_does_not_count_twice() -> None:
    pauses = Pauses(Wall())
    pauses.end()
    assert pauses.resting
    pauses.begin()
    assert not pauses.resting
    pauses.end()
    assert pauses.resting


def test_a_look_is_good_for_a_second_whichever_way_the_clock_is_moved() -> None:
    wall = Wall()
    pauses = Pauses(wall)
    assert pauses.stale()
    pauses.looked()
    wall.now += 1.0
    assert not pauses.stale()
    wall.now += 0.1
    assert pauses.stale()
    pauses.looked()
    wall.now -= 3600
    assert pauses.stale()
