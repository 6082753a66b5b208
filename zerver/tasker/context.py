"""What a handler may know and say of the task in its hand: ``task_context``."""

from contextvars import ContextVar

from zerver.tasker.attempt import Attempt

#: Set around each call of a handler.
current_attempt: ContextVar[Attempt] = ContextVar("zerver_current_attempt")


class TaskContext:
    """Of the handler that runs here and now; every attribute raises LookupError elsewhere."""

    @property
    def task_id(self) -> str:
        return self._attempt.claim.id

    @property
    def type(self) -> str:
        return self._attempt.claim.type

    @property
    def reference(self) -> str:
        return self._attempt.claim.reference

    @property
    def attempt(self) -> int:
        """The first is 1."""
        return self._attempt.claim.attempt

    @property
    def max_attempts(self) -> int:
        return self._attempt.claim.max_attempts

    @property
    def is_last_attempt(self) -> bool:
        return self.attempt >= self.max_attempts

    @property
    def cancelled(self) -> bool:
        """Somebody wants this task no more, as of a second ago: tidy up, and return or call ``check_in``.

        Raises: TaskLost, as ``check_in``.
        """
        return self._attempt.is_cancelled()

    def check_in(self) -> None:
        """A good moment to stop, where something is half done at no time. Cheap: the table is asked once a second.

        Raises: TaskCancelled when somebody wants the task no more; TaskLost when it is another worker's by now.
        Both are BaseExceptions, so ``except Exception`` lets them through; let them rise.
        """
        self._attempt.check_in()

    def progress(self, done: int | None = None, total: int | None = None, note: str = "") -> None:
        """Say how far it is, for whoever looks at the task; and check in. Written once a second at most, and at the
        end.

        Raises: as ``check_in``; ValueError for numbers that cannot be.
        """
        self._attempt.progress(done, total, note)

    @property
    def _attempt(self) -> Attempt:
        try:
            return current_attempt.get()
        except LookupError:
            raise LookupError("task_context is for handlers of tasks, while they run") from None


task_context = TaskContext()
