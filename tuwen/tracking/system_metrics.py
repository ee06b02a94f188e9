"""The load of this machine during a run: processor, memory, disk, network, and GPUs with nvidia-ml-py."""

import contextlib
import logging
import threading
from typing import Any

SAMPLE_SECONDS = 30  # between system metrics; MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL overrides it
MONITOR_SECONDS = 5.0  # for the thread that samples them to end


def start_monitor(run_id: str, address: str) -> Any:
    """Start a thread that logs to the run in the store at `address`; it ends by itself when the store is lost."""
    import psutil
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)  # one warning for a lost store is enough
    monitor = SystemMetricsMonitor(run_id, SAMPLE_SECONDS, resume_logging=True, tracking_uri=address)
    psutil.cpu_percent()  # it measures since the same thread's last call, so the first sample covers the run
    monitor.start()
    return monitor


def stop_monitor(monitor: Any) -> None:
    """End the thread; a run too short for a sample gets one, with the processor's mean over the run."""
    if is_short := monitor.mlflow_logger.previous_training_timestamp is None:
        for one in monitor.monitors:
            one.clear_metrics()
        monitor.collect_metrics()
    ending = threading.Thread(target=monitor.finish, daemon=True)  # it may wait for a store for ever
    ending.start()
    ending.join(MONITOR_SECONDS)
    if is_short and not ending.is_alive():
        with contextlib.suppress(Exception):  # one warning for a lost store is enough
            monitor.publish_metrics(monitor.aggregate_metrics())
            monitor.mlflow_logger.flush()
