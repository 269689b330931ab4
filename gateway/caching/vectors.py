"""What two questions have in common, as the cosine of their embeddings; in plain Python, near enough to nothing (pure).

Of a thousand vectors the 32 that agree in the most signs are compared number by number: an exact comparison of all of
them would hold up every other request for a tenth of a second.
"""

import math
import sys
from array import array
from collections.abc import Sequence
from heapq import nlargest
from operator import mul

import msgspec

MAX_DIMENSIONS = 8192
COMPARED = 32


class NoVector(ValueError):
    """Numbers that have no direction."""


class Direction(msgspec.Struct, frozen=True):
    """A vector of length 1; `signs` has a bit for each negative number."""

    numbers: array  # type: ignore[type-arg]
    signs: int

    def bytes(self) -> bytes:
        """Little-endian 32-bit floats."""
        numbers = self.numbers
        if sys.byteorder == "big":
            numbers = array("f", numbers)
            numbers.byteswap()
        return numbers.tobytes()

    def similarity(self, other: "Direction") -> float:
        return math.fsum(map(mul, self.numbers, other.numbers))


def direction(numbers: Sequence[float]) -> Direction:
    """Raises NoVector."""
    if not 0 < len(numbers) <= MAX_DIMENSIONS:
        raise NoVector(f"{len(numbers)} numbers")
    length = math.sqrt(math.fsum(number * number for number in numbers))
    if not math.isfinite(length) or length == 0.0:
        raise NoVector("no length")
    return _direction(array("f", [number / length for number in numbers]))


def from_bytes(data: bytes) -> Direction:
    """What `Direction.bytes` gave; raises NoVector for anything else."""
    numbers = array("f")
    try:
        numbers.frombytes(data)
    except ValueError:
        raise NoVector("no 32-bit floats") from None
    if sys.byteorder == "big":
        numbers.byteswap()
    if not 0 < len(numbers) <= MAX_DIMENSIONS or not 0.99 < math.fsum(map(mul, numbers, numbers)) < 1.01:
        raise NoVector("not of length 1")
    return _direction(numbers)


def _direction(numbers: "array[float]") -> Direction:
    return Direction(numbers, int("".join(["1" if number < 0 else "0" for number in numbers]), 2))


def nearest(wanted: Direction, among: Sequence[Direction], most: int = 1) -> list[tuple[int, float]]:
    """The places of the most similar ones, and their similarity; those of another length are not compared."""
    size = len(wanted.numbers)
    places = [place for place, one in enumerate(among) if len(one.numbers) == size]
    if len(places) > COMPARED:
        signs = wanted.signs
        places = nlargest(COMPARED, places, key=lambda place: -(signs ^ among[place].signs).bit_count())
    ranked = nlargest(most, ((wanted.similarity(among[place]), place) for place in places))
    return [(place, similarity) for similarity, place in ranked]
