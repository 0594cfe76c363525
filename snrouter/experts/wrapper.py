"""ExpertWrapper: something done around an expert, which in all else stays as it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

from snrouter.experts.base import Expert, Piece


class ExpertWrapper(Expert):
    """An expert around another one, with its support, seams and pieces; a subclass says what happens when it is asked.

    Args:
        expert: what is wrapped; its attribute `expert`.
    """

    def __init__(self, expert: Expert) -> None:
        super().__init__(expert.support, expert.name, expert.allow_extrapolation)
        self.expert = expert

    @abstractmethod
    def around(self, expert: Expert) -> Expert:
        """The same wrapper around another expert: the one of a piece."""

    @property
    def seams(self) -> tuple[float, ...]:
        """The wrapped expert's."""
        return self.expert.seams

    @property
    def invertible(self) -> bool:
        """Whether the wrapped expert is."""
        return self.expert.invertible

    @property
    def obstacle(self) -> str:
        """The wrapped expert's."""
        return self.expert.obstacle

    def for_samples(self, indices: Sequence[int] | None) -> Expert:
        """The wrapped expert's, wrapped alike."""
        expert = self.expert.for_samples(indices)
        return self if expert is self.expert else self.around(expert)

    def require(self, lo: float, hi: float) -> None:
        """Ask the wrapped expert."""
        self.expert.require(lo, hi)

    def pieces(self, lo: float, hi: float) -> Iterator[Piece]:
        """The wrapped expert's, each wrapped alike."""
        for piece in self.expert.pieces(lo, hi):
            expert = self if piece.expert is self.expert else self.around(piece.expert)
            yield piece._replace(expert=expert, key=(self, piece.identity))
