"""A link of a chosen bandwidth on one machine, for measurements: two network namespaces, a veth pair
between them, a token bucket (tc tbf) on either end. Linux, root; iproute2."""
import os
import signal
import subprocess
import sys


class ShapedLink:
    """Context manager: the namespaces are gone afterwards, also after an error or a signal."""

    near_address = "10.77.0.1"
    far_address = "10.77.0.2"

    def __init__(self):
        self.near, self.far = (f"tempo-{end}-{os.getpid()}" for end in ("near", "far"))

    def __enter__(self):
        if os.geteuid() != 0:
            sys.exit("a shaped link needs root: network namespaces and tc")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(1))  # an exception, so that __exit__ runs
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # until both are gone
        for name in (self.near, self.far):  # with their ends of the pair
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)

    def _make(self):
        def ip(*words):
            subprocess.run(["ip", *words], check=True)

        ends = ((self.near, "veth-near", self.near_address), (self.far, "veth-far", self.far_address))
        for name, _, _ in ends:
            ip("netns", "add", name)
        ip("link", "add", "veth-near", "netns", self.near, "type", "veth",
           "peer", "name", "veth-far", "netns", self.far)
        for name, device, address in ends:
            ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            # The largest packets: a small machine does no better with small ones than 1 GB/s.
            ip("-n", name, "link", "set", device, "mtu", "65535", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def set_rate(self, mb_s):
        """10^6 bytes a second, each way."""
        burst = max(131072, int(mb_s * 4000))
        for name, device in ((self.near, "veth-near"), (self.far, "veth-far")):
            subprocess.run(["ip", "netns", "exec", name, "tc", "qdisc", "replace", "dev", device,
                            "root", "tbf", "rate", f"{int(mb_s * 8000)}kbit", "burst", f"{burst}b",
                            "limit", f"{4 * burst + 4000000}b"], check=True)

    def inside(self, name, command):
        """The command, in one of the namespaces: self.near or self.far."""
        return ["ip", "netns", "exec", name, *map(str, command)]
