from hypothesis import given
from hypothesis import strategies as st

from lasfast.engine.memory import first_fit

lives = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted).map(tuple)


@given(st.lists(st.tuples(st.integers(1, 9), lives), max_size=30))
def test_values_alive_together_never_overlap(values) -> None:
    sizes = [size for size, _ in values]
    times = [life for _, life in values]
    offsets, total = first_fit(sizes, times)
    spans = list(zip(offsets, sizes, times, strict=True))
    for index, (offset, size, (first, last)) in enumerate(spans):
        assert offset >= 0
        assert offset + size <= total
        for other, other_size, (other_first, other_last) in spans[:index]:
            together = first <= other_last and other_first <= last
            assert not together or offset + size <= other or other + other_size <= offset
    assert total <= sum(sizes)


def test_a_chain_takes_turns() -> None:
    # Each value is read at the moment that the next one is born.
    offsets, total = first_fit([4] * 5, [(moment, moment + 1) for moment in range(5)])
    assert (offsets, total) == ([0, 4, 0, 4, 0], 8)


def test_the_lowest_gap_that_is_large_enough_is_taken() -> None:
    offsets, total = first_fit([5, 2, 9, 4, 2], [(0, 9), (0, 1), (0, 9), (2, 9), (2, 9)])
    #  born together: 9, 5, 2 from below; at 2 the last one is gone
    assert (offsets, total) == ([9, 14, 0, 14, 18], 20)
