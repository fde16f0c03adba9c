"""Latest: one computation at a time beside the notebook, and the newest request wins."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")

# A progress message costs a millisecond or two of the kernel's time; more often than this nobody sees it.
_PROGRESS_EVERY = 0.06


class Latest(Generic[T]):
    """Runs steps of work as an asyncio task in the kernel's own loop, so that a message is answered while it works.

    Starting new work cancels what is under way: its generator is closed at its last yield, and it is told that it was
    superseded. No thread is used. Without a running loop (a script, a test) the work is done at once.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._finish: Callable[[], None] | None = None

    def start(
        self,
        steps: Generator[float, None, T],
        done: Callable[[T], None],
        failed: Callable[[Exception], None],
        progress: Callable[[float], None],
        superseded: Callable[[], None],
    ) -> None:
        """Start the work, and give up any other. Exactly one of `done`, `failed` and `superseded` will be called."""
        self.stop()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            _at_once(steps, done, failed)
            return
        answered = False

        def finish() -> None:
            nonlocal answered
            _at_once(steps, done, failed)
            answered = True

        self._finish = finish
        self._task = loop.create_task(_beside(steps, done, failed, progress))
        # A task cancelled before its first step never runs, so this cannot be left to the task itself.
        self._task.add_done_callback(lambda task: superseded() if task.cancelled() and not answered else None)

    def finish(self) -> None:
        """Do what is left of the work under way now, if there is any, and come back when it is answered."""
        try:
            if self._task is not None and not self._task.done() and self._finish is not None:
                self._finish()
        finally:  # also when a person interrupts it: it is then superseded
            self.stop()

    def stop(self) -> None:
        """Give up what is under way, if anything is."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
        self._task = self._finish = None


def _at_once(steps: Generator[float, None, T], done: Callable[[T], None], failed: Callable[[Exception], None]) -> None:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            done(stop.value)
            return
        except Exception as error:  # it is shown: in the view, as its reply
            failed(error)
            return


async def _beside(
    steps: Generator[float, None, T],
    done: Callable[[T], None],
    failed: Callable[[Exception], None],
    progress: Callable[[float], None],
) -> None:
    told = time.monotonic()
    try:
        while True:
            try:
                share = next(steps)
            except StopIteration as stop:
                done(stop.value)
                return
            if time.monotonic() - told > _PROGRESS_EVERY:
                progress(share)
                told = time.monotonic()
            await asyncio.sleep(0)
    except Exception as error:  # it is shown: in the view, as its reply
        failed(error)
    finally:
        steps.close()
