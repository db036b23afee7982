"""Connections that are closed at once, thousands a second: `python api_churn.py PLACE SECONDS`.

PLACE is `unix:PATH` or `ADDRESS:PORT`. At the end, the number of connections is printed.
"""

from __future__ import annotations

import socket
import sys
import time


def churn(place: str, seconds: float) -> int:
    """Connect and close until the time is over. Return the number of connections."""
    path = place.removeprefix("unix:")
    host, _, port = place.rpartition(":")
    family = socket.AF_INET if path == place else socket.AF_UNIX
    done, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.connect((host, int(port)) if path == place else path)
        done += 1
    return done


if __name__ == "__main__":
    print("begun", flush=True)  # noqa: T201 - the parent process waits for this line
    print(churn(sys.argv[1], float(sys.argv[2])), flush=True)  # noqa: T201
