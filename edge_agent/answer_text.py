"""The text of one answer, put together from a stream that may break, begin anew, or go on elsewhere.

Pure: pieces go in, what the reader has not seen yet comes out. A reader never sees a character twice, and never text that
the answer turns out not to have.
"""

from __future__ import annotations


class DivergedError(Exception):
    """A repeated attempt says something else than what the reader has seen; the text cannot be continued."""


class AnswerText:
    """What has been shown of one answer. Not thread-safe."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._expected = ""  # shown text that the present attempt still has to repeat

    @property
    def shown(self) -> str:
        """Everything the reader has seen."""
        return "".join(self._shown)

    def begin_anew(self) -> None:
        """The next pieces begin at the answer's first character again."""
        self._expected = self.shown

    def go_on(self) -> None:
        """The next pieces begin where the shown text ends."""
        self._expected = ""

    def add(self, piece: str) -> str:
        """Take the next piece of the stream.

        Returns:
            What of it is new to the reader; may be empty.

        Raises:
            DivergedError: It contradicts what the reader has seen.
        """
        if len(piece) <= len(self._expected):
            if not self._expected.startswith(piece):
                raise DivergedError
            self._expected = self._expected[len(piece) :]
            return ""
        if not piece.startswith(self._expected):
            raise DivergedError
        new = piece[len(self._expected) :]
        self._expected = ""
        self._shown.append(new)
        return new

    def finish(self, whole: str) -> str:
        """Take the whole answer, which the stream ends with.

        Returns:
            What the reader has not seen yet.

        Raises:
            DivergedError: The shown text is not its beginning.
        """
        self.begin_anew()
        new = self.add(whole)
        if self._expected:
            raise DivergedError
        return new
