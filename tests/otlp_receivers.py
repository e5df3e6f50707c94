"""OTLP receivers over HTTP and gRPC, each on a port of its own, that keep what they are sent."""

from __future__ import annotations

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)


class Received:
    """The reports that came, newest last."""

    def __init__(self) -> None:
        self.requests: list[ExportMetricsServiceRequest] = []

    def points(self, name: str) -> list[tuple[dict[str, str], Any]]:
        """Attributes and data points of a metric in the newest report."""
        if not self.requests:
            return []
        found = []
        for resource in self.requests[-1].resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name and metric.WhichOneof("data"):  # none before the first measurement
                        data = getattr(metric, metric.WhichOneof("data"))
                        found += [({a.key: a.value.string_value for a in p.attributes}, p) for p in data.data_points]
        return found

    def sums(self, name: str, **labels: str) -> float:
        """The values of the points that have these attributes, added up; the counts of a histogram."""
        wanted = {key.replace("_", "."): value for key, value in labels.items()}
        return sum(
            point.count if hasattr(point, "count") else point.as_double or point.as_int
            for attributes, point in self.points(name)
            if wanted.items() <= attributes.items() or labels.items() <= attributes.items()
        )


class Receiver(Received):
    """Over HTTP."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: set[str] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.paths.add(self.path)
                receiver.requests.append(ExportMetricsServiceRequest.FromString(body))
                answer = ExportMetricsServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class GrpcReceiver(Received, metrics_service_pb2_grpc.MetricsServiceServicer):  # type: ignore[misc]
    """Over gRPC, without TLS."""

    def __init__(self) -> None:
        super().__init__()
        self.server = grpc.server(ThreadPoolExecutor(max_workers=1))
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(self, self.server)
        self.url = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Export(self, request: Any, context: Any) -> Any:  # the generated base class calls it so
        self.requests.append(request)
        return ExportMetricsServiceResponse()

    def close(self) -> None:
        self.server.stop(None).wait()
