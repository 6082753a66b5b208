"""Tasks: promises with a row of their own, that are scheduled, retried and can be cancelled.

from zerver.tasker import task, tasker

@task("sendWebhook", max_attempts=3, timeout_seconds=60)
def send_webhook(payload: WebhookPayload) -> None: ...

task_id = tasker.create("sendWebhook", {"url": "https://example.com"})
"""

from zerver.tasker.attempt import TaskCancelled, TaskLost
from zerver.tasker.context import task_context
from zerver.tasker.declarations import task
from zerver.tasker.errors import (
    InvalidTask,
    TaskError,
    TaskInWrongState,
    TaskNotFound,
    TaskNotUnique,
    TaskRefused,
    UnknownTaskType,
)
from zerver.tasker.service import TaskRequest, tasker
from zerver.tasker.states import TaskState

__all__ = [
    "InvalidTask",
    "TaskCancelled",
    "TaskError",
    "TaskInWrongState",
    "TaskLost",
    "TaskNotFound",
    "TaskNotUnique",
    "TaskRefused",
    "TaskRequest",
    "TaskState",
    "UnknownTaskType",
    "task",
    "task_context",
    "tasker",
]
