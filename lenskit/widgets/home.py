"""Home: what a view says is handled in the thread whose cells made the widget, whatever thread it arrives in."""

from __future__ import annotations

import asyncio
from typing import Any

import anywidget


class HomeThread(anywidget.AnyWidget):
    """A widget whose traits, observers and live source are only ever touched in the thread that made it.

    JupyterLab (since 4.4) delivers the messages of widgets in a subshell: a second thread of the kernel, beside the
    one that runs the cells. A forward in one thread while a cell uses the same model in the other is what nobody
    wants to reason about, so each message is passed on to the loop the cells run in, in the order of arrival. While a
    cell runs, messages wait, as they do in kernels without subshells. Made without a running loop (in a script, in a
    test), a widget handles its messages where they arrive.
    """

    def __init__(self, **traits: Any) -> None:
        try:
            self._home = asyncio.get_running_loop()
        except RuntimeError:
            self._home = None
        super().__init__(**traits)

    def _handle_msg(self, msg: Any) -> None:
        if self._home is None or self._home.is_closed() or self._home is asyncio._get_running_loop():
            super()._handle_msg(msg)
        else:
            self._home.call_soon_threadsafe(super()._handle_msg, msg)
