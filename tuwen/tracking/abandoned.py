"""Runs whose process was killed and that nobody took up: MLflow shows them as running until somebody ends them."""

import os
import platform
import time
from pathlib import Path
from typing import Any

import psutil

PROCESS_TAG = "tuwen.process"
SIGN_OF_LIFE = "system/cpu_utilization_percentage"  # logged every 30 seconds
SILENT_SECONDS = 600  # after which a run of another machine counts as dead


def describe_process() -> str:
    """Return this process by what no other one shares: boot, namespace of process numbers, number, start."""
    return f"{_describe_machine()} {os.getpid()} {_read_start(os.getpid())}"


def stop_abandoned_runs(client: Any, experiment: str) -> None:
    """End the running runs whose process is dead as FAILED, at the time of their last sign of life.

    Of a process of this boot the kernel knows. One of another machine, container or boot counts as dead after ten
    minutes without a system metric. Work that goes on with its run later sets it to running again.
    """
    for run in client.search_runs([experiment], filter_string="attributes.status = 'RUNNING'"):
        machine, _, process = run.data.tags.get(PROCESS_TAG, "").rpartition(" ")[0].rpartition(" ")
        start = run.data.tags.get(PROCESS_TAG, "").rpartition(" ")[2]
        signs = client.get_metric_history(run.info.run_id, SIGN_OF_LIFE)
        last_ms = max([run.info.start_time, *(sign.timestamp for sign in signs)])
        if machine == _describe_machine():
            is_dead = _read_start(int(process)) != start
        else:
            is_dead = time.time() - last_ms / 1000 > SILENT_SECONDS
        if is_dead:
            client.set_terminated(run.info.run_id, "FAILED", last_ms)


def _describe_machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return f"{platform.node()} {psutil.boot_time():.0f}"


def _read_start(process: int) -> str:
    """Return when a process began, in seconds since the boot; empty where it is gone or a zombie."""
    try:
        found = psutil.Process(process)
        return "" if found.status() == psutil.STATUS_ZOMBIE else f"{found.create_time() - psutil.boot_time():.2f}"
    except psutil.NoSuchProcess:
        return ""
