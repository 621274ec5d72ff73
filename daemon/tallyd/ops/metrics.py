"""Metrics for Prometheus, read off the daemon's own counts when asked: nothing is paid for on the hot path."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tallyd.core import Core

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _CoreCollector(Collector):
    def __init__(self, core: Core) -> None:
        self._core = core

    def collect(self) -> Iterable[Metric]:
        """Return every metric as of now."""
        core, counts = self._core, self._core.counts
        for name, text, value in (
            ("events", "Events recorded", counts.events),
            ("events_duplicate", "Events whose idempotency key was taken", counts.duplicates),
            ("events_refused", "Events refused as bad input", counts.refused),
            ("events_unpriced", "Events recorded without a price", counts.unpriced),
            ("events_capped", "Events recorded as zero past a usage cap", counts.capped),
            ("consume_denied", "Consume requests that did not fit a limit", counts.denied),
            ("entitlement_checks", "Entitlement checks and evaluations answered", counts.checks),
            ("actor_crashes", "Customer actors that crashed and were reloaded", counts.actor_crashes),
            ("overloads", "Requests refused because a queue was full", counts.overloads),
            ("plugin_timeouts", "Plugin calls that ran out of their budget", core.runtime.worker.timeouts),
            ("checkouts", "Checkout sessions made", counts.checkouts),
            ("checkouts_paid", "Invoices paid by a checkout session", counts.checkouts_paid),
            (
                "payments_unmatched",
                "Payments that came and pay no invoice; see the log",
                counts.payments_unmatched,
            ),
            ("provider_failures", "Times the payment provider did not answer", counts.provider_failures),
            ("webhooks_refused", "Webhooks with a bad signature or payload", counts.webhooks_refused),
            ("commits", "Transactions committed", core.writer.commits),
            ("commit_rows", "Rows committed", core.writer.rows_committed),
            ("commit_seconds", "Seconds spent committing", core.writer.seconds_committing),
            ("pools_checked", "Times a credit pool was checked to balance", core.writer.pools_checked),
        ):
            yield CounterMetricFamily(f"tallyd_{name}", text, value=value)
        yield GaugeMetricFamily("tallyd_customers_resident", "Customers in memory", value=len(core.directory))
        yield GaugeMetricFamily(
            "tallyd_pools_unbalanced", "Credit pools that do not balance", value=len(core.writer.unbalanced)
        )
        yield GaugeMetricFamily("tallyd_up", "1 while the books can be written", value=not core.writer.failed)


def metrics_page(core: Core) -> bytes:
    """Return the page Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(_CoreCollector(core))
    return generate_latest(registry)
