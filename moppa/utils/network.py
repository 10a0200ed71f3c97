"""Downloads that end: a timeout for every connection, and threads that do not outlive Ctrl-C or SIGTERM."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener, getproxies, proxy_bypass

from moppa.utils import validate
from moppa.utils.errors import UserError

PROXY_HINT = "behind a proxy, set HTTPS_PROXY and HTTP_PROXY"


class NoAnswerError(UserError):
    """Names a server that cannot be reached, or one that stopped sending."""


@dataclass
class Timeouts:
    """Seconds until a connection without an answer, and a download that receives nothing more, end with an error."""

    connect: float = 10.0
    stall: float = 60.0


TIMEOUTS = Timeouts()  # of this process


def set_connect_timeout(seconds: object) -> None:
    """Applies `run.connect_timeout` to this process."""
    TIMEOUTS.connect = validate.number("run.connect_timeout", seconds, minimum=0, exclusive_minimum=True)


class DaemonThreads(futures.Executor):
    """Runs calls in daemon threads, at most `max_workers` at a time.

    Python joins the threads of a `ThreadPoolExecutor` before it exits, however long they wait for a server.
    """

    def __init__(self, max_workers: int) -> None:
        self._free = threading.Semaphore(max_workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Starts a thread for the call and returns its future."""
        future: futures.Future[Any] = futures.Future()

        def call() -> None:
            with self._free:
                if not future.set_running_or_notify_cancel():
                    return
                try:
                    result = fn(*args, **kwargs)
                except BaseException as error:  # raised by `future.result()`
                    future.set_exception(error)
                else:
                    future.set_result(result)

        threading.Thread(target=call, daemon=True).start()
        return future


def interruptible(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Returns `function(*args, **kwargs)`, computed in a daemon thread, so that a signal ends the wait for it at once.

    A call that waits in C code, as for the address of a host, would delay the signal until it returns.
    """
    return DaemonThreads(1).submit(function, *args, **kwargs).result()


def check_reachable(url: str) -> None:
    """Raises `NoAnswerError` if no server answers at a URL, through the proxy of the environment if there is one.

    Clients try a server that does not answer up to ten times. Any HTTP status is an answer, and what the client may
    know better is left to it: certificates, proxies that ask for a password, and SOCKS.
    """
    if (proxy_of(url) or "").startswith("socks"):
        return
    started = time.monotonic()
    request = DaemonThreads(1).submit(ask, url, TIMEOUTS.connect)
    try:
        request.result(timeout=2 * TIMEOUTS.connect)  # to find the address, and then to connect
    except (OSError, futures.TimeoutError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, (TimeoutError, futures.TimeoutError)):
            raise no_answer(url, time.monotonic() - started) from error
        if isinstance(reason, OSError) and reason.errno is not None and not isinstance(reason, SSLError):
            raise NoAnswerError(f"{server(url)} cannot be reached ({reason.strerror})") from error


def ask(url: str, timeout: float) -> None:
    """Sends a HEAD request; any answer will do."""
    try:
        with build_opener().open(Request(url, method="HEAD"), timeout=timeout):  # with the proxies of now
            pass
    except (HTTPError, HTTPException):
        pass


def no_answer(url: str, seconds: float) -> NoAnswerError:
    """Returns the error for a server that does not answer."""
    return NoAnswerError(
        f"no answer from {server(url)} within {seconds:.1f} s (run.connect_timeout={TIMEOUTS.connect:g})"
    )


def stalled(url: str) -> NoAnswerError:
    """Returns the error for a download that receives nothing more."""
    return NoAnswerError(f"{url} sent nothing for {TIMEOUTS.stall:g} s")


@contextmanager
def named_errors(url: str) -> Iterator[None]:
    """Makes `NoAnswerError` of the errors of `requests` about a connection."""
    from requests import ConnectionError, Timeout
    from urllib3.exceptions import MaxRetryError, TimeoutError

    try:
        yield
    except (ConnectionError, Timeout) as error:
        cause = error.args[0] if error.args else error
        reason = cause.reason if isinstance(cause, MaxRetryError) else cause
        if isinstance(error, Timeout) or isinstance(reason, TimeoutError):
            raise stalled(url) from error
        raise NoAnswerError(f"the connection to {server(url)} failed ({reason})") from error


def server(url: str) -> str:
    """Returns the scheme and host of a URL, with the proxy through which it is reached, but not its password."""
    parts, proxy = urlsplit(url), proxy_of(url)
    host = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
    return f"{host} (through the proxy {proxy.rpartition('@')[2]})" if proxy else host


def proxy_of(url: str) -> str | None:
    """Returns the proxy that the environment names for a URL, or None."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
