"""Whether the Hub can be asked at all, found out quickly."""

from __future__ import annotations

import socket
import time

from hunmin.hub.files import RETRY_AFTER, answer

QUICK = 0.7  # seconds that a choice between models waits for the Hub
_heard: dict[str, tuple[bool, float]] = {}  # endpoint -> whether it took a connection, and when


def hub_answers() -> bool:
    """Whether the Hub can be asked at all: whether it, or the proxy before it, takes a connection within ``QUICK`` seconds.

    For choices that nobody should have to wait for. What was found out holds for a minute.
    """
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    now, (told, when) = time.monotonic(), _heard.get(constants.ENDPOINT, (False, -RETRY_AFTER))
    if now - when < RETRY_AFTER:
        return told
    url = urlsplit(constants.ENDPOINT)
    proxies = {} if proxy_bypass(url.hostname or "") else getproxies()
    if via := proxies.get(url.scheme) or proxies.get("all"):
        url = urlsplit(via if "://" in via else f"http://{via}")
    port = url.port or {"http": 80, "https": 443}.get(url.scheme, 1080)

    def connect() -> bool:
        socket.create_connection((url.hostname or "", port), QUICK).close()
        return True

    try:
        found = answer(connect, QUICK)
    except (OSError, ValueError):
        found = False
    _heard[constants.ENDPOINT] = found, now
    return found
