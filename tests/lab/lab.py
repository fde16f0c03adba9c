"""One JupyterLab page in a real browser, and what a test does with it: open, run, ask the kernel, close."""

import ast
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Locator, Page, Request, WebSocket

OPEN = """async path => {
    const app = window.jupyterapp;
    const panel = await app.commands.execute('docmanager:open', {path, factory: 'Notebook'});
    await panel.context.ready; await panel.revealed; await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
    app.shell.activateById(panel.id);
    return panel.id;
}"""
RUN = "() => window.jupyterapp.commands.execute('notebook:run-all-cells')"
ERRORS = """() => window.jupyterapp.shell.currentWidget.content.widgets
    .flatMap(cell => cell.model.toJSON().outputs ?? [])
    .filter(output => output.output_type === 'error')
    .map(output => `${output.ename}: ${output.evalue}`)"""
EXECUTE = """async ([code, expressions]) => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const done = kernel.requestExecute({code, store_history: false, user_expressions: expressions}).done;
    return (await done).content;
}"""
CLOSE = """async id => {
    const panel = [...window.jupyterapp.shell.widgets('main')].find(each => each.id === id);
    await panel.sessionContext.shutdown();
    panel.context.model.dirty = false;
    panel.close();
}"""

# evaluate() itself would wait for ever, for instance behind a dialogue that nobody answers.
IN_TIME = """([action, argument, seconds]) => Promise.race([
    (0, eval)(`(${action})`)(argument),
    new Promise((_, fail) => setTimeout(
        () => fail(new Error(`not done in ${seconds} s: ${action}`)), seconds * 1000)),
])"""
PATIENCE = 600  # seconds: a hang is noticed, and a slow machine is none


@dataclass
class Lab:
    """The page, and a record of everything in it that should not have been."""

    page: Page
    origin: str
    console_errors: list[str] = field(default_factory=list)
    page_errors: list[str] = field(default_factory=list)
    outside_requests: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, context: BrowserContext, origin: str) -> Self:
        """Load JupyterLab once; notebooks are then opened and closed in this page, which is much quicker."""
        lab = cls(context.new_page(), origin)
        context.on("request", lab._note_request)
        lab.page.on("websocket", lab._note_websocket)
        lab.page.on("pageerror", lambda error: lab.page_errors.append(str(error)))
        lab.page.on("console", lambda said: lab.console_errors.append(said.text) if said.type == "error" else None)
        lab.page.goto(f"{origin}/lab?reset")
        lab.page.wait_for_function("() => window.jupyterapp && window.jupyterapp.started")
        return lab

    def open(self, path: str) -> "OpenNotebook":
        """Open a notebook of the server's folder, with a kernel that is ready."""
        return OpenNotebook(self, self.act(OPEN, path))

    def act(self, action: str, argument: object = None, seconds: int = PATIENCE) -> Any:
        """Do something in the page (the source of a JavaScript function) and give what comes of it."""
        return self.page.evaluate(IN_TIME, [action, argument, seconds])

    def troubles(self) -> list[str]:
        """Everything that went wrong in the page so far. A test that is content asserts that it is empty."""
        return self.console_errors + self.page_errors + self.outside_requests

    def forget(self) -> None:
        """Start a new record, for the next test."""
        for record in (self.console_errors, self.page_errors, self.outside_requests):
            record.clear()

    def _note_request(self, request: Request) -> None:
        self._note(request.url)

    def _note_websocket(self, socket: WebSocket) -> None:
        self._note(socket.url)

    def _note(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(self.origin).netloc:
            self.outside_requests.append(f"request to another origin: {url}")


@dataclass
class OpenNotebook:
    """A notebook in the Lab page and its kernel."""

    lab: Lab
    id: str

    @property
    def panel(self) -> Locator:
        """Everything of this notebook that is in the page."""
        return self.lab.page.locator(f"[id='{self.id}']")

    def run_all(self, seconds: int = PATIENCE) -> None:
        """Run every cell. The first cell that fails is raised as an error here."""
        if not self.lab.act(RUN, None, seconds):
            raise AssertionError("a cell failed: " + "; ".join(self.lab.act(ERRORS)))

    def execute(self, code: str) -> None:
        """Run code in the kernel, beside the cells."""
        self._request(code, {})

    def ask(self, expression: str) -> Any:
        """The value of an expression in the kernel: whatever Python can write as a literal."""
        answer = self._request("pass", {"value": f"repr({expression})"})["user_expressions"]["value"]
        if answer["status"] != "ok":
            raise AssertionError(f"{expression}: {answer['ename']}: {answer['evalue']}")
        # repr of a repr: user_expressions sends the repr of what the expression gives.
        return ast.literal_eval(ast.literal_eval(answer["data"]["text/plain"]))

    def close(self) -> None:
        """Shut the kernel down and close the tab, without saving."""
        self.lab.act(CLOSE, self.id)

    def _request(self, code: str, expressions: dict[str, str]) -> Any:
        reply = self.lab.act(EXECUTE, [code, expressions])
        if reply["status"] != "ok":
            raise AssertionError(f"{code}: {reply['ename']}: {reply['evalue']}")
        return reply
