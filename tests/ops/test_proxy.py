"""The breakable network, between a client and a server that echoes."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.servers.ports import HOST
from tests.servers.proxy import TcpProxy
from tests.wait import wait_for


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        try:
            for line in self.rfile:
                self.wfile.write(line)
        except ConnectionResetError:
            pass


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def proxy(tcp_proxy: Callable[[int], TcpProxy]) -> Iterator[TcpProxy]:
    with EchoServer((HOST, 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield tcp_proxy(server.server_address[1])
        server.shutdown()
        thread.join()


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=60)


def test_it_carries_every_byte_both_ways(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        body = b"x" * 3_000_000 + b"\n"
        sender = threading.Thread(target=client.sendall, args=(body,))
        sender.start()
        received = bytearray()
        while len(received) < len(body):
            received += client.recv(1 << 20)
        sender.join()
        assert received == body
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b"", "the end is carried, too"
    wait_for(lambda: proxy.connection_count == 0)


def test_paused_it_swallows_and_resumed_it_delivers(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"before\n")
        assert client.recv(100) == b"before\n"
        proxy.pause()
        client.sendall(b"during\n")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(100)
        with connect(proxy) as late:
            late.settimeout(0.1)
            late.sendall(b"late\n")
            with pytest.raises(TimeoutError):
                late.recv(100)
        proxy.resume()
        client.settimeout(60)
        assert client.recv(100) == b"during\n"


def test_cut_resets_every_connection_and_takes_new_ones(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"hello\n"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    with connect(proxy) as client:
        client.sendall(b"again\n")
        assert client.recv(100) == b"again\n"


def test_a_paused_connection_can_be_cut(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"hello\n"
        proxy.pause()
        client.sendall(b"lost\n")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(100)


def test_refused_connections_are_new_ones_only(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"hello\n"
        proxy.refuse(True)
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        client.sendall(b"still here\n")
        assert client.recv(100) == b"still here\n"
    proxy.refuse(False)
    connect(proxy).close()


def test_latency_delays_each_direction_and_keeps_throughput(proxy: TcpProxy) -> None:
    proxy.set_latency(0.1)
    with connect(proxy) as client:
        started = time.monotonic()
        for number in range(100):
            client.sendall(b"%d\n" % number)
        received = b""
        while not received.endswith(b"\n99\n"):
            received += client.recv(100)
        assert 0.2 <= time.monotonic() - started < 5, "and not a hundred times as long"


def test_throttled_it_carries_everything_slowly(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        proxy.set_throughput(20_000)
        started = time.monotonic()
        client.sendall(b"x" * 9_999 + b"\n")
        received = 0
        while received < 10_000:
            received += len(client.recv(100_000))
        assert 0.4 <= time.monotonic() - started < 3
        proxy.set_throughput(None)
        client.sendall(b"quick\n")
        assert client.recv(100) == b"quick\n"


def test_a_stranded_connection_hears_nothing_any_more_and_new_ones_work(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"hello\n"
        proxy.strand()
        client.settimeout(0.2)
        for _ in range(2):
            client.sendall(b"anybody?\n")
            with pytest.raises(TimeoutError):
                client.recv(100)
        with connect(proxy) as other:
            other.sendall(b"new\n")
            assert other.recv(100) == b"new\n"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(100)


@pytest.mark.parametrize("is_upward", [True, False])
def test_it_cuts_at_a_pattern_in_one_direction_once(proxy: TcpProxy, is_upward: bool) -> None:
    with connect(proxy) as client, connect(proxy) as other:
        proxy.cut_at(b"here", is_upward=is_upward, keep_bytes=2)
        client.sendall(b"before\n")
        assert client.recv(100) == b"before\n"
        assert not proxy.has_cut()
        client.sendall(b"just here\n")
        if not is_upward:
            assert client.recv(100) == b"just he"
        # Upward the server got no end of line, and so has answered nothing.
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        assert proxy.has_cut()
        other.sendall(b"here, too\n")
        assert other.recv(100) == b"here, too\n"


def test_a_server_that_is_away_looks_like_a_reset(tcp_proxy: Callable[[int], TcpProxy]) -> None:
    with socket.socket() as nobody:
        nobody.bind((HOST, 0))
        proxy = tcp_proxy(nobody.getsockname()[1])
        # The reset may come while the client still connects.
        with pytest.raises(ConnectionResetError), connect(proxy) as client:
            client.recv(1)


def test_a_url_leads_through_it(proxy: TcpProxy) -> None:
    url = proxy.through("amqp://guest:secret@127.0.0.1:5672/a%2Fb?heartbeat=4")
    assert url == f"amqp://guest:secret@127.0.0.1:{proxy.port}/a%2Fb?heartbeat=4"
