"""The alert rules and the dashboard in ``examples/``: each expression names series and labels that a fleet has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_metrics import CONTRACT

EXAMPLES = Path(__file__).parents[2] / "examples"
DASHBOARD = json.loads((EXAMPLES / "grafana" / "stem-fleet.json").read_text())
RULES = yaml.safe_load((EXAMPLES / "prometheus" / "stem-alerts.yml").read_text())
#: A dashboard's variables, as Grafana puts values in their place.
VARIABLES = {"$__rate_interval": "1m", "$queue": ".*"}


def expressions() -> list[tuple[str, str]]:
    """Each with where it stands."""
    alerts = [(rule["alert"], rule["expr"]) for group in RULES["groups"] for rule in group["rules"]]
    panels = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return alerts + panels


def named(expression: str) -> dict[str, set[str]]:
    """The series of an expression, each with the labels that its selectors name."""
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(r"\b(stem_\w+)(?:\{([^}]*)\})?", expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
    return found


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_an_expression_names_what_there_is(where: str, expression: str) -> None:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)
    series = named(expression)
    assert series.keys() <= CONTRACT.keys(), where
    assert series, where
    for name, labels in series.items():
        assert labels <= CONTRACT[name] | {"worker", "instance"}
    grouped = {
        label.strip() for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in group.split(",")
    }
    assert grouped <= set.union(*(CONTRACT[name] for name in series)), where
    for name in re.findall(r"(?:rate|increase)\((\w+)", expression):
        assert name.endswith(("_total", "_bucket")), f"{name} is no counter"


@pytest.mark.parametrize(
    "rule", [rule for group in RULES["groups"] for rule in group["rules"]], ids=lambda r: r["alert"]
)
def test_a_rule_has_what_prometheus_accepts_and_names_labels_that_are_left(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"[A-Z]\w+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    assert rule["labels"]["severity"] in ("page", "ticket")
    shown = set(re.findall(r"\{\{ \$labels\.(\w+) \}\}", json.dumps(rule["annotations"])))
    kept = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for label in group.split(",")}
    assert shown <= kept


def test_a_dashboard_has_what_grafana_needs_to_import_it() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= DASHBOARD.keys()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    places = [tuple(panel["gridPos"][side] for side in "xywh") for panel in DASHBOARD["panels"]]
    assert all(x + w <= 24 for x, _, w, _ in places)
    assert len({(x, y) for x, y, _, _ in places}) == len(places)
    for panel in DASHBOARD["panels"]:
        assert {"type", "title", "datasource", "fieldConfig"} <= panel.keys()
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "queue"}


def test_every_series_is_shown_by_the_dashboard_or_watched_by_a_rule() -> None:
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for _, each in expressions() for name in named(each)}
    assert used == {re.sub(r"_(bucket|sum|count)$", "", name) for name in CONTRACT}


def test_prometheus_reads_the_rules_and_scrapes_both_kinds() -> None:
    config = yaml.safe_load((EXAMPLES / "prometheus" / "prometheus.yml").read_text())
    assert config["rule_files"] == ["stem-alerts.yml"]
    assert [job["job_name"] for job in config["scrape_configs"]] == ["stem-workers", "stem-fleet"]
