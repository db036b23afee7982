"""A backend: answers every datagram with its own name before it. Run in a backend's namespace: server.py NAME PORT."""

import socket
import sys

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("", int(sys.argv[2])))
    print("ready", flush=True)
    while True:
        payload, peer = sock.recvfrom(2048)
        sock.sendto(sys.argv[1].encode() + b" " + payload, peer)
