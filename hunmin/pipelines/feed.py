"""Work in a thread on inputs that the caller's thread takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any


class _End:
    """The last thing in a queue: nothing follows, or an error does."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Inbox(Iterator[Any]):
    """An iterator over what another thread puts in."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()

    def put(self, item: Any) -> None:
        self._queue.put(item)

    def close(self, error: BaseException | None = None) -> None:
        """Nothing follows; the iteration ends with ``error`` where there is one."""
        self._queue.put(_End(error))

    def ready(self) -> bool:
        """Whether the next item, or the end, is there."""
        return not self._queue.empty()

    def __next__(self) -> Any:
        item = self._queue.get()
        if isinstance(item, _End):
            self._queue.put(item)  # whoever asks again gets the same answer
            raise item.error or StopIteration
        return item


def in_thread(inputs: Iterator[Any], work: Callable[[Iterator[Any], Event], Iterator[Any]], ahead: int) -> Iterator[Any]:
    """What ``work(inputs, cancelled)`` yields, computed in a thread while the caller uses what came before.

    ``inputs`` are taken in the caller's thread, at most ``ahead`` of them before their answers. Work yields one answer an input, in order,
    and ends soon when ``cancelled`` is set: whoever leaves early does not wait for all.
    """
    inbox, answers, cancelled = Inbox(), Inbox(), Event()

    def run() -> None:
        try:
            for answer in work(inbox, cancelled):
                answers.put(answer)
            answers.close()
        except BaseException as error:
            answers.close(error)

    thread = Thread(target=run, name="hunmin-pipeline", daemon=True)
    thread.start()
    out, more = 0, True  # inputs without an answer, and whether there are further ones
    try:
        while True:
            taken = 0
            while more and out < ahead and not (taken and answers.ready()):  # slow inputs do not hold answers up
                try:
                    inbox.put(next(inputs))
                    out, taken = out + 1, taken + 1
                except StopIteration:
                    more = False
                    inbox.close()
                except BaseException as error:  # raised after the answers to what came before
                    more = False
                    inbox.close(error)
            try:
                answer = next(answers)
            except StopIteration:
                return
            out -= 1
            yield answer
    finally:
        cancelled.set()
        inbox.close()
        thread.join()
