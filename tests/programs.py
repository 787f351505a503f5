"""What tests and a build need and pip does not bring, with Debian's packages.

`python tests/programs.py` prints the packages of what is missing, for apt-get. It is run before pip
has installed anything: the standard library alone is imported here.
"""

from __future__ import annotations

import os
import shutil
import sysconfig

STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"
# Name: Debian's package, and where it may be: a command on the PATH, or a file. Tests ask for these
# by support.program.
PROGRAMS = {
    "Chromium": ("chromium", ["chromium", "chromium-browser", "google-chrome"]),
    "curl": ("curl", ["curl"]),
    "git": ("git", ["git"]),
    "h2load": ("nghttp2-client", ["h2load"]),
    "HAProxy": ("haproxy", ["haproxy", "/usr/sbin/haproxy"]),
    "ip": ("iproute2", ["ip", "/usr/sbin/ip"]),
    "logrotate": ("logrotate", ["logrotate", "/usr/sbin/logrotate"]),
    "make": ("make", ["make"]),
    "nghttp": ("nghttp2-client", ["nghttp"]),
    "nginx": ("nginx-light", ["nginx", "/usr/sbin/nginx"]),
    "nginx's stream module": ("libnginx-mod-stream", [STREAM_MODULE]),
    "openssl": ("openssl", ["openssl"]),
    "Prometheus": ("prometheus", ["prometheus"]),
    "promtool": ("prometheus", ["promtool"]),
    "systemd-analyze": ("systemd", ["systemd-analyze"]),
    "tmux": ("tmux", ["tmux"]),
    "unshare": ("util-linux", ["unshare"]),
}
BUILD = {
    "C compiler": ("gcc", ["gcc"]),
    "C library's headers": ("libc6-dev", ["/usr/include/stdio.h"]),
    "Python's header": ("python3-dev", [f"{sysconfig.get_path('include')}/Python.h"]),
    "venv": ("python3-venv", [f"{sysconfig.get_path('stdlib')}/ensurepip/__init__.py"]),
    "zlib's header": ("zlib1g-dev", ["/usr/include/zlib.h"]),
}


def find(places: list[str]) -> str | None:
    """Path of the first that is there."""
    # F_OK, as headers and modules are no commands.
    paths = (shutil.which(place, os.F_OK) for place in places)
    return next((path for path in paths if path is not None), None)


if __name__ == "__main__":
    needed = {**PROGRAMS, **BUILD}.values()
    print(*(package for package, places in needed if find(places) is None))
