"""What a running server has counted, to be held against what its clients have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from prometheus_client.parser import text_string_to_metric_families

from thestral.admin.client import ask
from thestral.config.address import Address


def sums(address: Address, metric: str, label: str, **only: Collection[str]) -> Counter[str]:
    """The samples of a metric that an admin port shows, added up by one of their labels.

    Args:
        only: values of other labels; samples that have none of them do not count.
    """
    answer = ask(address, "GET", "/metrics")
    assert answer.status == 200, answer
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(answer.body):
        for sample in family.samples:
            given = sample.labels
            if sample.name == metric and all(given[key] in only[key] for key in only):
                found[given[label]] += int(sample.value)
    return found
