"""Reads from one server over httpx: redirects, refusals, and contents that continue after an interruption.

Passwords go to that server alone, and never without TLS.
"""

import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from typing import BinaryIO, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx
import trio

from exclave.cluster.failure import explain
from exclave.errors import Fault, HostError
from exclave.kit.tasks.backoff import Attempts, Backoff
from exclave.proxy_install.manifest import BadImage
from exclave.proxy_install.reference import is_local

T = TypeVar("T")

TIMEOUT = httpx.Timeout(30.0, connect=15.0)  # seconds without a byte
ATTEMPTS = 5  # in a row without a new byte
BETWEEN = Backoff(first=1.0, most=16.0)
MOST_REDIRECTS = 5
LONGEST_PAUSE = 60.0  # seconds that a server may ask to wait
CHUNK = 256 * 1024  # bytes

AGAIN = (408, 416, 429, 500, 502, 503, 504)
"""HTTP status codes after which another attempt may succeed. After 416 the content is read from its start."""

Report = Callable[[int, int], None]
"""Called with the number of bytes that are there, and with their number at the end, 0 if unknown."""

REACH = "is the way there open? HTTPS_PROXY is used if it is set; or copy the program here, and use --file"


def download_error(message: str, hint: str) -> HostError:
    """The error for a program that cannot be downloaded."""
    return HostError(Fault.DOWNLOAD, message, hint)


class Interrupted(Exception):
    """An attempt failed, and a later one may succeed. `pause`: seconds that the server asks to wait, if it does."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class Origin:
    """A server. `title` names it in errors; `base` is its URL. `authorization` is a header's value."""

    def __init__(self, client: httpx.AsyncClient, title: str, base: str) -> None:
        self.client = client
        self.title = title
        self.authorization: str | None = None
        self._place = urlsplit(base)[:2]

    async def authorize(self, refusal: httpx.Response) -> bool:
        """Set `authorization` after an answer with status 401. False: there is nothing to try."""
        del refusal
        return False

    @asynccontextmanager
    async def open(self, url: str, headers: Mapping[str, str]) -> AsyncGenerator[httpx.Response, None]:
        """The answer at a URL, after redirects. Raises Interrupted, HostError."""
        has_authorized = False
        for _ in range(MOST_REDIRECTS + 2):
            is_here = urlsplit(url)[:2] == self._place
            sent = {**headers, "Authorization": self.authorization} if is_here and self.authorization else headers
            async with self._stream(url, sent) as answer:
                if answer.status_code == 401 and is_here and not has_authorized:
                    has_authorized = True
                    if await self.authorize(answer):
                        continue
                if answer.has_redirect_location:
                    url = self._redirected(url, answer.headers["location"])
                    continue
                self._check_status(answer)
                yield answer
                return
        raise download_error(f"{self.title}: more than {MOST_REDIRECTS} redirects", "name another source")

    @asynccontextmanager
    async def _stream(self, url: str, headers: Mapping[str, str]) -> AsyncGenerator[httpx.Response, None]:
        try:
            async with self.client.stream("GET", url, headers=dict(headers)) as answer:
                yield answer
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise download_error(f"{self.title} names a URL that cannot be used", "name another source") from None
        except httpx.HTTPError as problem:
            certificate = _certificate_problem(problem)
            if certificate is not None:
                hint = "if its CA is your own, name the file with it: --ca-file; is this machine's clock right?"
                raise download_error(f"{self.title}: its certificate cannot be verified: {certificate}", hint) from None
            raise Interrupted(_reason(problem)) from None

    def _redirected(self, url: str, location: str) -> str:
        target = urlsplit(urljoin(url, location))
        if target.scheme != "https" and not (target.scheme == "http" and is_local(target.hostname or "")):
            raise download_error(f"{self.title} redirects to a server without TLS", "name another source")
        return target.geturl()

    def _check_status(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if 200 <= status < 300:
            return
        if status in AGAIN:
            raise Interrupted(f"it answers with status {status}", read_pause(answer.headers.get("retry-after", "")))
        if status in (401, 403):
            hint = "put user and password into a file as docker login writes it, and name it: --auth-file"
            raise download_error(f"{self.title} denies access, with status {status}", hint)
        if status == 404:
            raise download_error(f"{self.title}: it has no such thing (status 404)", "check name, tag and digest")
        raise download_error(f"{self.title} answers with status {status}", REACH)

    async def read(self, url: str, headers: Mapping[str, str], most: int) -> bytes:
        """A small content. Raises HostError."""

        async def once() -> bytes:
            content = b""
            async with self.open(url, headers) as answer:
                async for chunk in answer.aiter_bytes():
                    content += chunk
                    if len(content) > most:
                        raise download_error(f"{self.title} answers with more than {most} bytes", REACH)
            return content

        return await self._repeated(once, lambda: 0)

    async def fetch(self, url: str, file: BinaryIO, size: int | None, most: int, report: Report) -> None:
        """Append to a file what it lacks of a content. `size`: its bytes, None if unknown.

        Raises BadImage if there are more than `size` or `most` bytes, and HostError.
        """
        once = partial(self._continue, url, file, size, most if size is None else size, report)
        await self._repeated(once, partial(file.seek, 0, 2))

    async def _continue(self, url: str, file: BinaryIO, size: int | None, most: int, report: Report) -> None:
        begin = file.seek(0, 2)
        if size is not None and begin >= size:
            return
        headers = {"Accept-Encoding": "identity"}
        if begin:
            headers["Range"] = f"bytes={begin}-"
        async with self.open(url, headers) as answer:
            if begin and not _continues(answer, begin):
                begin = 0
                file.truncate(file.seek(0))
            total = size or _length(answer, begin)
            async for chunk in answer.aiter_raw(CHUNK):
                begin += len(chunk)
                if begin > most:
                    raise BadImage(f"{most} bytes were expected at most, and there are more")
                await trio.to_thread.run_sync(file.write, chunk)
                report(begin, total)
            if begin < total:
                raise Interrupted(f"it ended after {begin} of {total} bytes")

    async def _repeated(self, once: Callable[[], Awaitable[T]], progress: Callable[[], int]) -> T:
        attempts, failures = Attempts(), 0
        while True:
            before = progress()
            try:
                return await once()
            except Interrupted as problem:
                if progress() > before:
                    attempts, failures = Attempts(), 0
                failures += 1
                if failures == ATTEMPTS:
                    raise download_error(f"{self.title}: {problem}, after {ATTEMPTS} attempts", REACH) from None
                pause = attempts.failed(BETWEEN, random.random())  # noqa: S311  jitter
                if problem.pause is not None:
                    pause = problem.pause
                if pause > LONGEST_PAUSE:
                    hint = "try again then, or name another source, such as a mirror"
                    raise download_error(f"{self.title}: {problem}, for {pause:.0f} s", hint) from None
            await trio.sleep(pause)


def read_pause(header: str) -> float | None:
    """Seconds in a `Retry-After` header; None for another text. A date counts as too long a pause."""
    if header.isascii() and header.isdecimal() and len(header) < 9:
        return float(header)
    try:
        return LONGEST_PAUSE + 1 if parsedate_to_datetime(header) else None
    except ValueError:
        return None


def _continues(answer: httpx.Response, begin: int) -> bool:
    """True if an answer has the content from this byte on; otherwise it has the whole content."""
    if answer.status_code != 206:
        return False
    if not answer.headers.get("content-range", "").startswith(f"bytes {begin}-"):
        raise Interrupted("it answers with another part than it was asked for")
    return True


def _length(answer: httpx.Response, begin: int) -> int:
    text = answer.headers.get("content-length", "")
    return begin + int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0


def _certificate_problem(problem: BaseException) -> str | None:
    """Why TLS does not accept a server's certificate; None if something else failed."""
    link: BaseException | None = problem
    while link is not None:
        if isinstance(link, ssl.SSLCertVerificationError):
            return link.verify_message
        link = link.__cause__ or link.__context__
    return None


_REASONS = {"refused": "it refuses connections", "name": "its name was not resolved", "tls-other": "TLS failed"}


def _reason(problem: httpx.HTTPError) -> str:
    if isinstance(problem, httpx.ConnectTimeout):
        return f"no connection within {TIMEOUT.connect:.0f} s"
    if isinstance(problem, httpx.TimeoutException):
        return f"nothing came for {TIMEOUT.read:.0f} s"
    if isinstance(problem, httpx.ProxyError):
        return "the HTTP proxy refuses the connection"
    kind = explain(problem, "", "").kind
    if kind in _REASONS:
        return _REASONS[kind]
    return f"the connection broke ({type(problem).__name__})"
