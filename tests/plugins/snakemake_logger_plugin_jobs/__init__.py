"""A Snakemake logger that writes every planned job as one JSON line: the public way to see an expanded graph."""

from __future__ import annotations

import json
from logging import LogRecord
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

FIELDS = ("rule_name", "input", "output", "shellcmd", "reason")


class LogHandler(LogHandlerBase):
    def __post_init__(self) -> None:
        self.path = Path("jobs.jsonl")
        self.path.write_text("")

    def emit(self, record: LogRecord) -> None:
        if getattr(record, "event", None) == LogEvent.JOB_INFO:
            with self.path.open("a") as file:
                file.write(json.dumps({k: getattr(record, k, None) for k in FIELDS}, default=str) + "\n")

    @property
    def writes_to_stream(self) -> bool:
        return False

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return True

    @property
    def has_formatter(self) -> bool:
        return True

    @property
    def needs_rulegraph(self) -> bool:
        return False
