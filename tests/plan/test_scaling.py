"""The autoscaler's decision: load and clock in, wanted count out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_serve_cai.plan.scaling import Course, Load, described, first_count, kept_count, step
from ray_serve_cai.spec import ReplicaRange


def limits(**keys: Any) -> ReplicaRange:
    base: dict[str, Any] = {
        "min": 1,
        "max": 4,
        "target_ongoing_requests": 2,
        "cool_down": 30,
        "idle_after": 100,
    }
    return ReplicaRange(**base | keys)


def run(spec: ReplicaRange, course: Course, *looks: tuple[float, Load]) -> Course:
    """The course after looks at these times."""
    for now, load in looks:
        course = step(spec, course, load, now)
    return course


class TestUp:
    @pytest.mark.parametrize(
        ("ongoing", "wanted"), [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (8, 4), (99, 4)]
    )
    def test_at_once_to_what_the_load_needs(self, ongoing: int, wanted: int) -> None:
        assert step(limits(), Course(1, 0.0), Load(ongoing), 1.0).wanted == wanted

    def test_those_that_wait_count(self) -> None:
        assert step(limits(min=0), Course(0, 0.0), Load(held=5), 1.0).wanted == 3

    def test_fraction_as_target(self) -> None:
        spec = limits(target_ongoing_requests=0.5)
        assert step(spec, Course(1, 0.0), Load(2), 1.0).wanted == 4

    def test_from_none_by_a_request_that_was_refused(self) -> None:
        assert step(limits(min=0), Course(0, 0.0), Load(arrived=True), 1.0).wanted == 1

    def test_range_that_was_raised(self) -> None:
        assert step(limits(min=3), Course(1, 0.0), Load(), 1.0).wanted == 3


class TestDown:
    def test_after_the_cool_down(self) -> None:
        course = run(limits(), Course(4, 0.0), (1, Load(1)), (30.9, Load(1)))
        assert course.wanted == 4
        assert step(limits(), course, Load(1), 31.0).wanted == 1

    def test_busy_moment_begins_it_anew(self) -> None:
        looks = [(1, Load(1)), (20, Load(8)), (21, Load(1)), (40, Load(1))]
        course = run(limits(), Course(4, 0.0), *looks)
        assert course.wanted == 4
        assert step(limits(), course, Load(1), 51.0).wanted == 1

    def test_to_the_most_that_was_needed_meanwhile(self) -> None:
        course = run(limits(), Course(4, 0.0), (1, Load(1)), (15, Load(5)), (31, Load(1)))
        assert course.wanted == 3

    def test_then_the_next_step_waits_again(self) -> None:
        course = run(limits(), Course(4, 0.0), (1, Load(1)), (15, Load(5)), (31, Load(1)))
        course = run(limits(), course, (32, Load(1)), (61, Load(1)))
        assert course.wanted == 3
        assert step(limits(), course, Load(1), 62.0).wanted == 1

    def test_range_that_was_lowered(self) -> None:
        course = run(limits(max=2), Course(4, 0.0), (1, Load(99)), (31, Load(99)))
        assert course.wanted == 2


class TestToZero:
    def test_last_one_goes_after_idle_time_alone(self) -> None:
        course = run(limits(min=0), Course(1, 0.0), (50, Load()), (99, Load()))
        assert course.wanted == 1
        assert step(limits(min=0), course, Load(), 100.0).wanted == 0

    def test_not_where_the_range_begins_at_one(self) -> None:
        assert step(limits(), Course(1, 0.0), Load(), 1e6).wanted == 1

    @pytest.mark.parametrize("load", [Load(ongoing=1), Load(held=1), Load(arrived=True)])
    def test_any_request_begins_it_anew(self, load: Load) -> None:
        course = run(limits(min=0), Course(1, 0.0), (90, load), (189, Load()))
        assert course.wanted == 1
        assert step(limits(min=0), course, Load(), 190.0).wanted == 0

    def test_never_while_something_runs_though_the_time_is_none(self) -> None:
        spec = limits(min=0, idle_after=0)
        assert step(spec, Course(1, 0.0), Load(ongoing=1), 5.0).wanted == 1
        assert step(spec, Course(1, 0.0), Load(arrived=True), 5.0).wanted == 1
        assert step(spec, Course(1, 0.0), Load(), 5.0).wanted == 0

    def test_stays_at_zero(self) -> None:
        assert step(limits(min=0), Course(0, 0.0), Load(), 1e6).wanted == 0
        assert step(limits(min=0), Course(0, 0.0), Load(), 1.0).wanted == 0


loads = st.builds(Load, st.integers(0, 40), st.integers(0, 10), st.booleans())


@given(
    low=st.integers(0, 5),
    more=st.integers(0, 5),
    start=st.integers(0, 10),
    looks=st.lists(st.tuples(st.floats(0.1, 60), loads), min_size=1, max_size=30),
)
def test_holds_for_every_course(
    low: int, more: int, start: int, looks: list[tuple[float, Load]]
) -> None:
    spec = limits(min=low, max=max(low + more, 1))
    course, now = Course(min(max(start, low), spec.max), 0.0), 0.0
    for pause, load in looks:
        now += pause
        before, course = course, step(spec, course, load, now)
        requests = load.ongoing + load.held
        assert spec.min <= course.wanted <= spec.max
        assert course.wanted >= min(math.ceil(requests / 2), spec.max), "below what is in flight"
        if course.wanted == 0 and before.wanted:
            assert not requests
            assert now - course.busy_at >= spec.idle_after


class TestCountOfADeploy:
    @pytest.mark.parametrize(("running", "count"), [(0, 1), (1, 1), (3, 3), (9, 4)])
    def test_new_revision_starts_with_what_runs(self, running: int, count: int) -> None:
        assert first_count(limits(min=0), running) == count

    @pytest.mark.parametrize(("running", "count"), [(0, 0), (3, 3), (9, 4)])
    def test_other_range_of_the_same_revision(self, running: int, count: int) -> None:
        assert kept_count(limits(min=0), running) == count

    def test_words(self) -> None:
        assert described(limits(), 0) == "1 to 4 replicas, 2 requests each"
        assert described(3, 3) == "3 replicas"
