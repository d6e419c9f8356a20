"""Hosts of their own on one machine: network namespaces, and a link between them.

The link is a thread of this process. It reads the packets of each host from a TUN device, holds
them for as long as a network of that rate and delay would, and hands them to the host they are for.
`tc netem` does the same where the kernel has it, which many kernels of virtual machines do not.
"""

import ctypes
import fcntl
import heapq
import os
import select
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

CLONE_NEWNET, TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x40000000, 0x400454CA, 0x0001, 0x1000  # of Linux
# Bytes of a packet: large ones, of which the link takes little of the machine's time.
MTU = 60_000
BURST = 2e-3  # seconds that a packet may have waited for this thread and not for the link


class Link(threading.Thread):
    """A network for hosts on this machine.

    Args:
        rate: bits per second that each host can send.
        delay: seconds from one host to another.

    Raises:
        OSError: if this system allows no network namespaces, or has no TUN devices.
    """

    def __init__(self, rate: float, delay: float) -> None:
        super().__init__(daemon=True)
        self.rate, self.delay = rate, delay
        self.hosts: dict[bytes, int] = {}  # the device of each address
        self.asked: tuple[int, str] | None = None
        self.failed: OSError | None = None
        self.done = threading.Semaphore(0)
        self.start()
        self.done.acquire()
        if self.failed:
            raise self.failed

    def join_host(self, pid: int, address: str) -> None:
        """Connect a process that `unshare --net` has started, under this address."""
        own = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{pid}/ns/net").readlink() == own:
            time.sleep(0.01)
        self.asked = pid, address
        self.done.acquire()
        if self.failed:
            raise self.failed

    def run(self) -> None:
        """Pass on packets, and connect who asks for it."""
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):  # of this thread alone
                raise OSError(ctypes.get_errno(), "network namespaces need root")
            self.tun("probe")
            self.done.release()
            self.pass_on()
        except OSError as error:
            self.failed = error
            self.done.release()

    def tun(self, name: str) -> int:
        """Return a new device of this thread's namespace."""
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        request = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI)
        fcntl.ioctl(device, TUNSETIFF, request)
        return device

    def connect(self, pid: int, address: str) -> None:
        """Make a device, and move it into the namespace of a process."""
        self.hosts[socket.inet_aton(address)] = self.tun("new")
        inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        for command in (
            f"ip link set new netns {pid} name wire",
            f"ip addr add {address}/16 dev wire",
            f"ip link set wire up mtu {MTU}",
            "ip link set lo up",
        ):
            where = [] if "netns" in command else inside
            subprocess.run([*where, *command.split()], check=True)

    def pass_on(self) -> None:
        """Hold each packet until it would be there."""
        sent: dict[int, float] = {}  # until when the cable of a host is busy
        waiting: list[tuple[float, int, int, bytes]] = []
        count = 0
        while True:
            if self.asked:
                self.connect(*self.asked)
                self.asked = None
                self.done.release()
            now = time.perf_counter()
            while waiting and waiting[0][0] <= now:
                os.write(waiting[0][2], heapq.heappop(waiting)[3])
            free = [device for device in self.hosts.values() if sent.get(device, 0.0) <= now]
            nexts = [*(time for time in sent.values() if time > now), *(w[0] for w in waiting[:1])]
            ready, _, _ = select.select(free, [], [], max(0.0, min([now + 0.05, *nexts]) - now))
            for device in ready:
                packet = os.read(device, 2**16)
                to = packet[16:20]
                if packet[0] >> 4 != 4 or to not in self.hosts:
                    continue
                takes, now = 8 * len(packet) / self.rate, time.perf_counter()
                sent[device] = max(sent.get(device, 0.0), now - BURST) + takes
                there = max(sent[device], now) + self.delay
                count += 1
                heapq.heappush(waiting, (there, count, self.hosts[to], packet))
