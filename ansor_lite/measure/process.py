"""One worker process as its parent sees it: ask, wait with a limit, restart it when it dies."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansor_lite.errors import MeasurementError
from ansor_lite.measure import pipes
from ansor_lite.measure.protocol import Measurement, Status
from ansor_lite.target import Target

START_SECONDS = 120.0
# Yields of an idle pool thread before it sleeps: about half a millisecond, over before another
# worker is timed (see SETTLE_SECONDS in local.py). ``timing.py`` wakes the pool itself.
SPIN_COUNT = 1500
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (
    f"import sys; sys.path[0] = {str(ROOT)!r}; from ansor_lite.measure.worker import main; main()"
)


class WorkerProcess:
    """A child that answers one request at a time. It starts in the background.

    ``generation`` counts its restarts: whatever it held is lost when that changes.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.generation = 0
        self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, request: dict[str, Any]) -> None:
        """Hand over a request; that the child has died shows when the answer is read.

        Raises :class:`MeasurementError` when the child does not start.
        """
        self.wait_until_ready()
        with suppress(BrokenPipeError):
            pipes.send(self._stdin, request)

    def answer(self) -> dict[str, Any] | Measurement:
        """The answer to the last request, or how the child died of it; then it runs again."""
        try:
            return pipes.receive(self._stdout)
        except EOFError:
            died = Measurement(Status.CRASH, message=self._cause_of_death())
            self.restart()
            return died

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any] | Measurement:
        """``send`` and wait for ``answer``; after ``seconds`` the child is killed: ``TIMEOUT``."""
        self.send(request)
        return self.answer_within(seconds)

    def answer_within(self, seconds: float) -> dict[str, Any] | Measurement:
        """``answer``, or ``TIMEOUT`` after ``seconds``: then the child is killed."""
        if wait_for([self], seconds):
            return self.answer()
        return self.expired(seconds)

    def expired(self, seconds: float) -> Measurement:
        """Give the current request up."""
        self.restart()
        return Measurement(Status.TIMEOUT, message=f"no result within {seconds:g} s")

    def restart(self) -> None:
        """Kill the child and start another one."""
        self.close()
        self.generation += 1
        self._start()

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._stdin, self._stdout, self._stderr):
            with suppress(BrokenPipeError):
                stream.close()

    def fileno(self) -> int:
        return self._stdout.fileno()

    def _start(self) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=os.environ | environment(self.target.threads),
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._is_ready = False
        with suppress(BrokenPipeError):
            pipes.send(self._stdin, {"target": self.target.to_json()})

    def wait_until_ready(self) -> None:
        """Return once the child has loaded its libraries; :class:`MeasurementError` if it fails."""
        if self._is_ready:
            return
        if not wait_for([self], START_SECONDS):
            self.close()
            raise MeasurementError(f"a worker process did not start within {START_SECONDS:g} s")
        try:
            pipes.receive(self._stdout)
        except EOFError:
            cause = self._cause_of_death()
            self.close()
            raise MeasurementError(f"a worker process does not start: {cause}") from None
        self._is_ready = True

    def _cause_of_death(self) -> str:
        code = self._process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        last = self._last_words("error" if code < 0 else "")
        return f"{name} ({last})" if last else name

    def _last_words(self, word: str) -> str:
        """The last line of standard error with ``word`` in it (a crash prints a long trace)."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - 4096))
        lines = self._stderr.read().decode(errors="replace").split("\n")
        telling = [line.strip() for line in lines if line.strip() and word in line.lower()]
        return telling[-1][:200] if telling else ""


def environment(threads: int) -> dict[str, str]:
    """What a worker's libraries read when they load: the size of their thread pools."""
    return {
        "TVM_NUM_THREADS": str(threads),
        "TVM_THREAD_POOL_SPIN_COUNT": str(SPIN_COUNT),
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def wait_for(workers: Collection[WorkerProcess], seconds: float) -> list[WorkerProcess]:
    """Those of ``workers`` that have an answer or died, as soon as there is one; or nobody."""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker, selectors.EVENT_READ, worker)
        ready = selector.select(max(0.0, deadline - time.monotonic()))
    return [key.data for key, _ in ready]
