"""A private RabbitMQ, and an Erlang process beside it that makes virtual hosts in milliseconds."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
from urllib.parse import quote

from stem_kombu.testing.ports import free_port
from tests.servers.process import Reaper, ServerMissing, ServerProcess, conversation, find_program
from tests.waiting import eventually

_CONFIGURATION = """
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.absolute = {memory}
log.file.level = warning
log.console = false
"""

#: Reads one Erlang expression a line, has the server evaluate it, prints the result on one line: 13 ms for a virtual
#: host. ``rabbitmqctl eval`` takes 0.5 s for each; the management plugin makes every start 2 s longer.
_CONTROLLER = """
Answer = fun Answer() ->
  Node = list_to_atom(os:getenv("STEM_TEST_NODE")),
  case io:get_line("") of
    eof -> halt(0);
    Line ->
      {ok, Tokens, _} = erl_scan:string(Line),
      {ok, Expressions} = erl_parse:parse_exprs(Tokens),
      Result = case catch rpc:call(Node, erl_eval, exprs, [Expressions, []], 30000) of
        {value, Value, _} -> Value;
        Failure -> {failed, Failure}
      end,
      io:format("answer: ~0tp~n", [Result]),
      Answer()
  end
end, Answer().
"""


class RabbitServer(ServerProcess):
    """Durable queues and persistent messages survive :meth:`restart` and :meth:`kill`, as RabbitMQ promises.

    Everything is private: node name, ports, cookie, port mapper daemon, configuration. No plugins. With more ``memory`` in use it
    takes no messages.
    """

    name = "RabbitMQ"
    start_timeout = 120.0

    def __init__(self, reaper: Reaper, *, memory: str = "2GB") -> None:
        # Debian's command in PATH changes the user and the working directory; the program behind it does not.
        program = find_program(
            "rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server"
        )
        epmd, erl = find_program("epmd"), find_program("erl")
        if program is None or epmd is None or erl is None:
            absent = ", ".join(
                name for name, found in (("rabbitmq-server", program), ("epmd", epmd), ("erl", erl)) if found is None
            )
            raise ServerMissing(f"{absent}: not installed (Debian and Ubuntu: apt-get install rabbitmq-server)")
        super().__init__(reaper)
        self._program, self._erl, self._memory = program, erl, memory
        self._node = f"stem-test-{self.port}@localhost"
        self._epmd = _PortMapper(epmd, reaper)
        self._controller: subprocess.Popen[str] | None = None
        self._controller_lock = threading.Lock()
        self._distribution_port = free_port(self.host)
        self._vhost = itertools.count(1)

    @property
    def url(self) -> str:
        """The virtual host ``/``. Tests that should not meet use :meth:`new_vhost`."""
        return self._url("/")

    def new_vhost(self) -> str:
        """The URL of an empty virtual host."""
        name = f"test-{next(self._vhost)}"
        made = self.evaluate(f'rabbit_vhost:add(<<"{name}">>, <<"tests">>)')
        anything = ", ".join(['<<".*">>'] * 3)
        granted = self.evaluate(
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, {anything}, <<"tests">>)'
        )
        if (made, granted) != ("ok", "ok"):
            raise RuntimeError(f"virtual host {name}: {made}, {granted}")
        return self._url(name)

    def drop_vhost(self, url: str) -> None:
        """Delete it with its queues and end the connections to it."""
        self.evaluate(f'rabbit_vhost:delete(<<"{url.rpartition("/")[2]}">>, <<"tests">>)')

    def evaluate(self, expression: str) -> str:
        """What an Erlang expression is on the server's node, printed on one line."""
        with self._controller_lock:
            if self._controller is None or self._controller.poll() is not None:
                self._controller = self._start_controller()
            assert self._controller.stdin is not None
            assert self._controller.stdout is not None
            self._controller.stdin.write(f"{expression}.\n")
            self._controller.stdin.flush()
            # Between answers come reports of Erlang's own, of a node that was slow for one.
            lines = iter(self._controller.stdout.readline, "")
            answer = next((line.removeprefix(_ANSWER) for line in lines if line.startswith(_ANSWER)), "")
        if not answer or answer.startswith("{failed,"):
            raise RuntimeError(f"RabbitMQ: {expression}: {answer.strip() or 'no answer'}")
        return answer.strip()

    def close_connections(self) -> None:
        """Close every client's connection from the server's side, as an operator does."""
        self.evaluate(
            '[rabbit_networking:close_connection(Pid, "closed by a test") || Pid <- rabbit_networking:connections()]'
        )

    def queues(self, url: str) -> set[str]:
        """The names of the queues in a virtual host."""
        vhost = url.rpartition("/")[2]
        listed = self.evaluate(f'[binary_to_list(element(4, N)) || N <- rabbit_amqqueue:list_names(<<"{vhost}">>)]')
        return set(listed.strip("[]").replace('"', "").split(",")) - {""}

    def prepare(self) -> None:
        self._forget_controller()  # it would speak of the node that was killed when it is asked of the next
        self._epmd.start()
        for part in ("home", "mnesia", "log"):
            (self.directory / part).mkdir(exist_ok=True)
        (self.directory / "rabbitmq.conf").write_text(_CONFIGURATION.format(memory=self._memory))
        (self.directory / "enabled_plugins").write_text("[].\n")

    def command(self) -> list[str]:
        return [self._program]

    def environment(self) -> dict[str, str]:
        return {
            **self._erlang(),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": self.host,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq"),
            "RABBITMQ_CONFIG_FILES": str(self.directory / "no-more-configuration"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "no-advanced-configuration.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            # The shell script then becomes the server (exec) instead of its parent, so that our pid is the server's.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 2:2 -kernel inet_dist_use_interface {_LOOPBACK}",
        }

    def answers(self) -> bool:
        return conversation(self.host, self.port, b"AMQP\x00\x00\x09\x01")[:1] == b"\x01"

    def close(self) -> None:
        if self._controller is not None and self._controller.stdin is not None:
            self._controller.stdin.close()
            self._controller.wait(30)
        self.stop()
        self._epmd.close()
        super().close()

    def _erlang(self) -> dict[str, str]:
        return {"HOME": str(self.directory / "home"), **self._epmd.environment()}

    def _forget_controller(self) -> None:
        with self._controller_lock:
            controller, self._controller = self._controller, None
        if controller is not None:
            controller.kill()
            controller.communicate()
            self._reaper.order("forget", controller.pid)

    def _start_controller(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                *(self._erl, "-noshell", "-hidden", "-sname", f"stem-test-{self.port}-control-{os.getpid()}@localhost"),
                *("-start_epmd", "false", "-kernel", "inet_dist_use_interface", _LOOPBACK, "-eval", _CONTROLLER),
            ],
            env={**os.environ, **self._erlang(), "STEM_TEST_NODE": self._node},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reaper.order("kill", process.pid)
        return process

    def _url(self, vhost: str) -> str:
        return f"amqp://guest:guest@{self.host}:{self.port}/{quote(vhost, safe='')}"


_LOOPBACK = "{127,0,0,1}"
_ANSWER = "answer: "


class _PortMapper:
    """Erlang's epmd on a port of its own. By itself RabbitMQ would start one for the machine and leave it there."""

    def __init__(self, program: str, reaper: Reaper) -> None:
        self._program = program
        self._port = free_port()
        self._reaper = reaper
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        return {"ERL_EPMD_PORT": str(self._port), "ERL_EPMD_ADDRESS": "127.0.0.1"}

    def start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._process = subprocess.Popen(
            [self._program],
            env={**os.environ, **self.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._reaper.order("kill", self._process.pid)
        names_request = b"\x00\x01n"
        eventually(
            lambda: conversation("127.0.0.1", self._port, names_request),
            message="epmd did not start",
            ignoring=(OSError,),
        )

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._reaper.order("forget", self._process.pid)
