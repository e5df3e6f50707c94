"""Private servers that only the matrix needs: ZooKeeper, etcd, and a second node of a RabbitMQ."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path

from stem_kombu.testing.ports import free_port
from tests.servers.process import Reaper, ServerMissing, ServerProcess, conversation, find_program
from tests.servers.rabbitmq import RabbitServer


class ZooKeeperServer(ServerProcess):
    """One node, with its data in its folder."""

    name = "ZooKeeper"

    def __init__(self, reaper: Reaper) -> None:
        java, jars = find_program("java"), Path("/usr/share/java/zookeeper.jar")
        if java is None or not jars.exists():
            raise ServerMissing("ZooKeeper is not installed (Debian and Ubuntu: apt-get install zookeeper)")
        super().__init__(reaper)
        self._java = java

    @property
    def url(self) -> str:
        return f"zookeeper://{self.host}:{self.port}"

    def nodes(self) -> list[str]:
        """The paths of all nodes that are not ZooKeeper's own; a queue's messages count as the queue."""
        from kazoo.client import KazooClient

        client = KazooClient(hosts=f"{self.host}:{self.port}")
        client.start(timeout=30)
        try:
            found, ahead = [], ["/"]
            while ahead:
                path = ahead.pop()
                for child in client.get_children(path):
                    whole = f"{path.rstrip('/')}/{child}"
                    if not whole.startswith("/zookeeper"):
                        found.append(whole)
                        ahead.append(whole)
            return found
        finally:
            client.stop()
            client.close()

    def prepare(self) -> None:
        (self.directory / "zoo.cfg").write_text(
            f"dataDir={self.directory}\nclientPort={self.port}\nclientPortAddress={self.host}\nadmin.enableServer=false\n"
            "maxClientCnxns=0\ntickTime=500\n4lw.commands.whitelist=ruok\n"
        )

    def command(self) -> list[str]:
        main = "org.apache.zookeeper.server.ZooKeeperServerMain"
        return [self._java, "-cp", "/usr/share/java/*", main, str(self.directory / "zoo.cfg")]

    def answers(self) -> bool:
        return b"imok" in conversation(self.host, self.port, b"ruok")


class EtcdServer(ServerProcess):
    """One node that speaks the protocol of version 2, which Kombu needs."""

    name = "etcd"

    def __init__(self, reaper: Reaper) -> None:
        program = find_program("etcd")
        if program is None:
            raise ServerMissing("etcd is not in PATH (Debian and Ubuntu: apt-get install etcd-server)")
        super().__init__(reaper)
        self._program, self._peers = program, free_port(self.host)

    @property
    def url(self) -> str:
        return f"etcd://{self.host}:{self.port}/"

    def keys(self) -> list[str]:
        """All keys, of directories and of values."""
        with urllib.request.urlopen(f"http://{self.host}:{self.port}/v2/keys/?recursive=true", timeout=10) as answer:
            ahead = [json.load(answer)["node"]]
        found = []
        while ahead:
            node = ahead.pop()
            found.append(node.get("key", "/"))
            ahead += node.get("nodes", ())
        return found

    def prepare(self) -> None:
        """It makes its files itself."""

    def command(self) -> list[str]:
        here, peers = f"http://{self.host}:{self.port}", f"http://{self.host}:{self._peers}"
        return [
            *(self._program, "--data-dir", str(self.directory / "data"), "--enable-v2=true"),
            *("--listen-client-urls", here, "--advertise-client-urls", here),
            *(
                "--listen-peer-urls",
                peers,
                "--initial-advertise-peer-urls",
                peers,
                "--initial-cluster",
                f"default={peers}",
            ),
        ]

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.port}/health", timeout=1) as answer:
                return b"true" in answer.read()
        except OSError:
            return False


class JoinedRabbit(RabbitServer):
    """A second node of the cluster of ``first``, which runs when this one starts."""

    def __init__(self, reaper: Reaper, first: RabbitServer) -> None:
        super().__init__(reaper)
        self._first, self._epmd = first, first._epmd

    def prepare(self) -> None:
        super().prepare()
        cookie = self.directory / "home" / ".erlang.cookie"
        if not cookie.exists():
            shutil.copy(self._first.directory / "home" / ".erlang.cookie", cookie)  # with its mode, which Erlang checks
        discovery = ["peer_discovery_backend = classic_config"]
        discovery += [
            f"classic_config.nodes.{number} = {one._node}" for number, one in enumerate((self._first, self), 1)
        ]
        with (self.directory / "rabbitmq.conf").open("a") as configuration:
            configuration.writelines(f"cluster_formation.{line}\n" for line in discovery)
