"""Metrics as Prometheus reads them."""

from __future__ import annotations

from types import SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families

from mpt_edge.server.metrics import Metrics


def test_counts_and_times() -> None:
    metrics = Metrics()
    metrics.watch(SimpleNamespace(waiting=7, streaming=2, cached_tasks=3))
    metrics.observe_request("/predict", 200, 0.004)
    metrics.observe_batch("answers", 12, 0.02)
    metrics.count_texts("sst2", 5)
    metrics.count_texts("sst2", 1)
    values = {
        (sample.name, *map(sample.labels.get, sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }
    assert values["mpt_edge_request_seconds_count", "/predict", "200"] == 1
    assert values["mpt_edge_request_seconds_bucket", "0.005", "/predict", "200"] == 1
    assert values["mpt_edge_request_seconds_bucket", "0.0025", "/predict", "200"] == 0
    assert values["mpt_edge_batch_texts_sum", "answers"] == 12
    assert values["mpt_edge_texts_total", "sst2"] == 6
    assert values[("mpt_edge_queue_texts",)] == 7
    assert values[("mpt_edge_streams",)] == 2
    assert values[("mpt_edge_cached_tasks",)] == 3
