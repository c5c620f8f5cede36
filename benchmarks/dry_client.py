"""Lets the server of `benchmarks.dry_run` run a module in this process's place.

    python -S benchmarks/dry_client.py SOCKET MODULE [ARGUMENT...]

The server has imported all that takes long. What it runs writes to this process's output, in its directory,
with its environment and in its process group, and this process ends with its status.
"""

import array
import json
import os
import socket
import sys


def main() -> int:
    """Return the exit status."""
    _, address, *command = sys.argv
    job = {
        "command": command,
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "group": os.getpgrp(),
    }
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        outputs = array.array("i", [1, 2])
        server.sendmsg([b"job"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, outputs)])
        server.sendall(json.dumps(job).encode())
        server.shutdown(socket.SHUT_WR)
        status = server.recv(1)
    return status[0] if status else 1


if __name__ == "__main__":
    sys.exit(main())
