"""This project's settings and declarations: Django's system checks of this package, as findings."""

from django.conf import settings
from django.core import checks

from zerver.monitoring.checkup.finding import Finding, Severity

#: The tag under which the checks of this package are registered.
TAG = "queues"

#: Errors that worker processes outlive, and what they mean for them.
_OUTLIVED = {
    "zerver.E006": "its queues are unknown, to publishers too; the others work",
    "zerver.E009": "workers wait for it, and hold what they have",
}


def look(databases: list[str] | None = None) -> list[Finding]:
    """``databases``: aliases that may be asked; without them nothing is, and it cannot take long.

    Checks that are meant for deployment are among them where DEBUG is off.
    """
    messages = checks.run_checks(
        tags=[TAG], databases=databases, include_deployment_checks=not settings.DEBUG
    )
    return [_finding(message) for message in messages if _is_told(message)]


def _is_told(message: checks.CheckMessage) -> bool:
    return message.level >= checks.WARNING and not message.is_silenced()


def _finding(message: checks.CheckMessage) -> Finding:
    is_error = message.level >= checks.ERROR
    return Finding(
        # ``zerver.E001`` is how SILENCED_SYSTEM_CHECKS knows it.
        code=f"settings.{str(message.id).rpartition('.')[2]}",
        severity=Severity.PROBLEM if is_error else Severity.WARNING,
        what=message.msg,
        place=f"settings ({message.id})",
        why=_why(message),
        mend=message.hint or "./manage.py check",
    )


def _why(message: checks.CheckMessage) -> str:
    if message.id == "zerver.W004":
        return "events go on; who watches the .stats files sees old ones, or none"
    if message.level < checks.ERROR:
        return "it works, and will surprise somebody"
    return _OUTLIVED.get(str(message.id), "worker processes refuse to start")
