"""A bad cable between two network interfaces: ``python relay.py NAME OTHER DELAY LOSS``, as root on Linux.

Makes both (TAP devices), and passes the frames that one sends to the other after DELAY seconds, but for the share LOSS
of them, chosen at random. What a frame carries goes through the kernel's own TCP on both sides, which sends again what
was lost as on any bad line. Says ``up`` when both are there, and ends with its standard input.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress

_TUNSETIFF, _TAP_WITHOUT_HEADER = 0x400454CA, 0x1002
_QUEUE = 1000  # frames on their way in one direction; more are lost, as by tc-netem
_FRAME = 2**16


def open_tap(name: str) -> int:
    """A new interface, gone when the file is closed: frames that it sends are read, those written come in."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH", name.encode(), _TAP_WITHOUT_HEADER))
    return file


def main() -> None:
    """Pass frames until the input ends."""
    ends = [open_tap(name) for name in sys.argv[1:3]]
    delay, loss = map(float, sys.argv[3:5])
    chance = random.Random(1)
    under_way: dict[int, deque[tuple[float, bytes]]] = {end: deque() for end in ends}  # by where they go
    print("up", flush=True)
    while True:
        due = min((queue[0][0] for queue in under_way.values() if queue), default=None)
        wait = None if due is None else max(0.0, due - time.monotonic())
        ready, _, _ = select.select([*ends, 0], [], [], wait)
        if 0 in ready and not os.read(0, 1):
            return
        for source, target in (ends, ends[::-1]):
            while source in ready:
                try:
                    frame = os.read(source, _FRAME)
                except OSError:  # no more for now, or the interface is down
                    break
                if chance.random() >= loss and len(under_way[target]) < _QUEUE:
                    under_way[target].append((time.monotonic() + delay, frame))
        for target, queue in under_way.items():
            while queue and queue[0][0] <= time.monotonic():
                with suppress(OSError):  # the interface is down
                    os.write(target, queue.popleft()[1])


if __name__ == "__main__":
    main()
