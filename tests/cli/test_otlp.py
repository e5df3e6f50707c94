"""A worker's metrics at an OTLP receiver: what was sent is decoded by OpenTelemetry's own messages (G35)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stem_kombu.errors import ConfigurationError
from stem_kombu.metric_exporters import OtlpEndpoint, otlp_endpoint
from stem_kombu.testing.ports import free_port
from tests.cli.program import Program
from tests.otlp_receivers import GrpcReceiver, Receiver
from tests.waiting import eventually


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.mark.parametrize(("broker", "system"), [("embedded", "sqlite"), ("redis", "redis"), ("amqp", "rabbitmq")])
def test_g35_what_a_receiver_gets_agrees_with_stats(
    program_on: Callable[[str], Program], receiver: Receiver, tmp_path: Path, broker: str, system: str
) -> None:
    program = program_on(broker)
    variables = {"STEM_METRIC_EXPORTERS": f"otlp:{receiver.url}", "STEM_OTLP_INTERVAL": "200ms"}
    worker = program.start_worker("--name", "alpha", "-c", "1", env=variables)
    done = [program.send("shop.add", a=1), program.send("shop.fails"), program.send("shop.note", folder=str(tmp_path))]
    assert [program.ended(task)["state"] for task in done] == ["succeeded", "failed", "succeeded"]
    finished = "stem_tasks_finished_total"
    eventually(lambda: receiver.sums(finished) == 3, 60, lambda: str(receiver.points(finished)))
    assert receiver.paths == {"/v1/metrics"}
    assert receiver.sums(finished, outcome="succeeded") == 2
    assert receiver.sums(finished, outcome="failed", task="shop.fails", queue="default") == 1
    assert receiver.sums("stem_worker_state", state="running") == 1
    assert receiver.sums("stem_tasks_received_total") == 3

    process, consumed = "messaging.process.duration", "messaging.client.consumed.messages"
    assert receiver.sums(process, messaging_system=system, messaging_operation_name="process") == 3
    assert receiver.sums(process, messaging_destination_name="default", error_type="_OTHER") == 1
    assert receiver.sums(consumed, messaging_system=system, messaging_destination_name="default") == 3
    ((_, histogram),) = [
        (attributes, point)
        for attributes, point in receiver.points("stem_task_duration_seconds")
        if attributes["task"] == "shop.add"
    ]
    assert histogram.count == sum(histogram.bucket_counts) == 1
    assert len(histogram.bucket_counts) == len(histogram.explicit_bounds) + 1
    (resource,) = receiver.requests[-1].resource_metrics
    about = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert about["service.instance.id"] == "alpha"
    assert about["service.name"] == program.variables.get("STEM_CONTROL_NAMESPACE", "stem")

    worker.signal(signal.SIGTERM)
    assert worker.wait_code() == 0
    assert receiver.sums("stem_worker_state", state="draining") == 1  # the last report is that of the end
    assert receiver.sums(finished) == 3


def test_next_attempts_are_messages_that_the_worker_sent(embedded: Program, receiver: Receiver, tmp_path: Path) -> None:
    from stem_kombu.testing.gates import Gate

    variables = {"STEM_METRIC_EXPORTERS": "otlp", "STEM_OTLP_ENDPOINT": receiver.url, "STEM_OTLP_INTERVAL": "200ms"}
    embedded.start_worker("--name", "alpha", "-c", "1", env=variables)
    gate = Gate(tmp_path / "gate")
    gate.open()
    task = embedded.send("shop.again", folder=str(tmp_path), gate=gate.path)
    assert embedded.ended(task)["state"] == "succeeded"
    sent, spent = "messaging.client.sent.messages", "messaging.client.operation.duration"
    labels = {"messaging_operation_name": "send", "messaging_destination_name": "default", "messaging_system": "sqlite"}
    eventually(lambda: receiver.sums(sent, **labels) == 1, 60, lambda: str(receiver.points(sent)))
    assert receiver.sums(spent, **labels) == 1
    assert not [attributes for attributes, _ in receiver.points(sent) if "error.type" in attributes]


def test_a_receiver_that_is_away_is_told_once_and_keeps_no_task_waiting(embedded: Program) -> None:
    away = f"otlp:http://127.0.0.1:{free_port()}"
    variables = {"STEM_METRIC_EXPORTERS": away, "STEM_OTLP_INTERVAL": "100ms"}
    worker = embedded.start_worker("--name", "alpha", "-c", "1", env=variables)
    assert embedded.ended(embedded.send("shop.add", a=1))["state"] == "succeeded"
    eventually(lambda: "metrics do not reach http://127.0.0.1" in worker.err, 60, lambda: worker.err)
    assert worker.terminate() == 0
    assert worker.err.count("metrics do not reach") == 1
    assert "Traceback" not in worker.err


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"STEM_METRIC_EXPORTERS": "statsd:localhost"}, "there is no exporter 'statsd'"),
        ({"STEM_METRIC_EXPORTERS": "otlp:http://a:1,otlp:http://b:1"}, "names 2 exporters"),
        ({"STEM_METRIC_EXPORTERS": "otlp"}, "has no URL"),
        ({"STEM_METRIC_EXPORTERS": "otlp:http://[::1"}, "STEM_METRIC_EXPORTERS: 'http://.*its host can't be read"),
        ({"STEM_METRIC_EXPORTERS": "otlp:http://c:99999"}, "is no http:// or https:// URL"),
        ({"STEM_METRIC_EXPORTERS": "otlp:http://c:x"}, "is no http:// or https:// URL"),
        (
            {"STEM_METRIC_EXPORTERS": "otlp", "STEM_OTLP_ENDPOINT": "localhost:4317"},
            "STEM_OTLP_ENDPOINT: 'localhost:4317'",
        ),
    ],
)
def test_an_exporter_that_can_not_be_is_refused_by_its_variable(variables: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        otlp_endpoint(variables)
    assert otlp_endpoint({"STEM_METRIC_EXPORTERS": " "}) is None
    assert otlp_endpoint({"STEM_METRIC_EXPORTERS": "otlp:https://c:4318/x"}) == OtlpEndpoint("https://c:4318/x")
    by_grpc = {"STEM_METRIC_EXPORTERS": "otlp-grpc", "STEM_OTLP_ENDPOINT": "http://c:4317"}
    assert otlp_endpoint(by_grpc) == OtlpEndpoint("http://c:4317", by_grpc=True)


def test_g35_a_receiver_over_grpc_gets_the_same(embedded: Program) -> None:
    with closing(GrpcReceiver()) as receiver:
        variables = {"STEM_METRIC_EXPORTERS": f"otlp-grpc:{receiver.url}", "STEM_OTLP_INTERVAL": "200ms"}
        worker = embedded.start_worker("--name", "alpha", "-c", "1", env=variables)
        assert embedded.ended(embedded.send("shop.add", a=1))["state"] == "succeeded"
        finished = "stem_tasks_finished_total"
        eventually(lambda: receiver.sums(finished) == 1, 60, lambda: worker.err)
        assert receiver.sums("messaging.process.duration", messaging_destination_name="default") == 1
        assert worker.terminate() == 0
        assert receiver.sums("stem_worker_state", state="draining") == 1


def test_without_the_extra_the_worker_says_what_to_install(embedded: Program, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden" / "opentelemetry"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('not here')\n")
    variables = {"STEM_METRIC_EXPORTERS": "otlp:http://127.0.0.1:4318", "PYTHONPATH": str(hidden.parent)}
    worker = embedded.begin_worker(env=variables)
    assert worker.wait_code() == 2
    assert "pip install 'stem-kombu[otel]'" in worker.err
