"""The orders of revoking by selector, as JSON and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stem_kombu.clock import isoformat
from stem_kombu.control.protocol.messages import Rules, Select
from stem_kombu.fields import items, mapping, moment, number, optional, whole
from stem_kombu.rule import MOST_LIVE, Rule
from stem_kombu.selector import Selector

#: Tasks that one reply names at most.
MOST_NAMED = 10_000


def encode_selecting(order: object) -> dict[str, object]:
    """The arguments of such an order; none for any other."""
    if isinstance(order, Select):
        return {
            "selector": order.selector.to_record(),
            "before": isoformat(order.before),
            "longer_than_s": order.longer_than,
            "limit": order.limit,
        }
    return {"rules": [rule.to_message() for rule in order.rules]} if isinstance(order, Rules) else {}


def _select(args: Mapping[str, object]) -> Select:
    return Select(
        Selector.from_record(args.get("selector")),
        moment(args.get("before"), "before"),
        optional(number, args.get("longer_than_s"), "longer_than_s"),
        min(MOST_NAMED, whole(args.get("limit", MOST_NAMED), "limit")),
    )


def _rules(args: Mapping[str, object]) -> Rules:
    given = items(args.get("rules"), "rules", most=MOST_LIVE)
    return Rules(tuple(Rule.from_message(mapping(one, "a rule")) for one in given))


#: By their names, what reads the arguments of each.
SELECTING: dict[str, Callable[[Mapping[str, object]], Select | Rules]] = {Select.name: _select, Rules.name: _rules}
