"""Kubernetes' Deployments: one for each queue, and one for the scheduler. Source: https://kubernetes.io/docs/reference/kubernetes-api/.

No preStop hook: a worker gets no traffic that would have to be led away first. It asks for its events itself, and
SIGTERM, the first that Kubernetes sends, is its sign to ask for no more and to finish what it has.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from zerver.deployment.errors import UnfitValue
from zerver.deployment.programs import SCHEDULER_STOP_SECONDS, QueueProgram
from zerver.lib.shard_names import shard_number

DEFAULT_CPU = "100m"
DEFAULT_MEMORY = "256Mi"
#: Beside what a worker may take to drain: Kubernetes' clock runs from before it sends the signal.
GRACE_SECONDS = 10
#: A scheduler that cannot begin ends sooner; until then a rollout leaves the old one at work.
_SETTLED_SECONDS = 10
#: Names, and the values of labels.
LONGEST_NAME = 63

_HEADER = "# Written by ./manage.py queue_config kubernetes: what is changed here is lost.\n"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|[KMGT]i|[MGT])?")
#: All that a pod writes: gone with it, and missed by nobody.
_STATE = "/run/queue"
_HEALTH_FILE = f"{_STATE}/health.json"

#: Of a shard: two pods at once would keep no order.
_ONE_AFTER_THE_OTHER = """\
  strategy:
    type: Recreate
"""
_NEW_ONE_FIRST = """\
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """What all of them have in common. Raises: UnfitValue."""

    #: Deployments begin with it.
    name: str
    image: str
    #: Where ``manage.py`` is; None: where the image's processes start.
    directory: PurePosixPath | None
    #: Whose keys become variables: settings, and passwords.
    config_map: str
    secret: str
    cpu: str
    #: Asked for, and the most that one gets.
    memory: str

    def __post_init__(self) -> None:
        for what, name in (("name", self.name), ("config map", self.config_map), ("secret", self.secret)):
            if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
                raise UnfitValue(what, name, f"use lower-case letters, digits and -, at most {LONGEST_NAME}")
        if not _IMAGE.fullmatch(self.image):
            raise UnfitValue("image", self.image, "name one as registry/name:tag")
        for what, quantity in (("cpu", self.cpu), ("memory", self.memory)):
            if not _QUANTITY.fullmatch(quantity):
                raise UnfitValue(what, quantity, "give a quantity, like 100m of CPU or 256Mi of memory")
        if self.directory is not None and not self.directory.is_absolute():
            raise UnfitValue("directory", str(self.directory), "give an absolute path")


def render(pods: Pods, programs: Sequence[QueueProgram], *, has_scheduler: bool) -> str:
    deployments = [_of_queue(pods, program) for program in programs]
    if has_scheduler:
        deployments.append(_scheduler(pods, [program.queue for program in programs]))
    return _HEADER + "".join(deployments)


def dns_name(text: str) -> str:
    """A name as Kubernetes takes it (RFC 1123): the same for the same text, and another for any other."""
    name = text.replace("_", "-").replace(".", "-")
    if _NAME.fullmatch(name) and len(name) <= LONGEST_NAME and "." not in text:
        return name
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - len(mark) - 1].rstrip('-')}-{mark}"


def _of_queue(pods: Pods, program: QueueProgram) -> str:
    is_shard = shard_number(program.queue) is not None
    return _deployment(
        pods,
        name=dns_name(f"{pods.name}-{program.queue}"),
        component=dns_name(f"queue-{program.queue}"),
        replicas=program.workers,
        strategy=_ONE_AFTER_THE_OTHER if is_shard else _NEW_ONE_FIRST,
        stop_seconds=program.stop_seconds,
        container=_worker(pods, program),
    )


def _scheduler(pods: Pods, queues: Sequence[str]) -> str:
    """Several do no harm, so the new pod need not wait for the old one. Without probes: one that cannot go on ends, and
    no restart would mend what it waits for.
    """
    # A queue may be called so, and has its Deployment already.
    mark = "." if "scheduler" in queues else "-"
    return _deployment(
        pods,
        name=dns_name(f"{pods.name}{mark}scheduler"),
        component="scheduler",
        replicas=1,
        strategy=f"{_NEW_ONE_FIRST}  minReadySeconds: {_SETTLED_SECONDS}\n",
        stop_seconds=SCHEDULER_STOP_SECONDS,
        container=_container(pods, "scheduler", ["queue_scheduler"]),
    )


def _deployment(
    pods: Pods, *, name: str, component: str, replicas: int, strategy: str, stop_seconds: int, container: str
) -> str:
    """``enableServiceLinks`` off: variables of a service that is called queue-… would be taken for settings.
    ``shareProcessNamespace``: the pod's own first process reaps what handlers' programs leave behind, and a worker that
    is still loading ends by a signal, which the kernel keeps from a first process that has no handler for it.
    """
    labels = {
        "app.kubernetes.io/name": pods.name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "queue_config",
    }
    selected = {name: labels[name] for name in list(labels)[:2]}
    return f"""\
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels:
{_lines(labels, 4)}spec:
  replicas: {replicas}
  selector:
    matchLabels:
{_lines(selected, 6)}{strategy}  template:
    metadata:
      labels:
{_lines(labels, 8)}    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      shareProcessNamespace: true
      terminationGracePeriodSeconds: {stop_seconds + GRACE_SECONDS}
      securityContext:
        runAsNonRoot: true
        seccompProfile:
          type: RuntimeDefault
      containers:
{container}\
      volumes:
        - name: state
          emptyDir: {{}}
        - name: tmp
          emptyDir: {{}}
"""


def _worker(pods: Pods, program: QueueProgram) -> str:
    probes = (
        _probe("startupProbe", "live", period_seconds=3, failures=40),
        _probe("livenessProbe", "live", period_seconds=20, failures=3),
        _probe("readinessProbe", "ready", period_seconds=10, failures=1),
    )
    arguments = ["process_queue", f"--queue={program.queue}", f"--health-file={_HEALTH_FILE}"]
    return _container(pods, "worker", arguments, "".join(probes))


def _container(pods: Pods, name: str, arguments: Sequence[str], probes: str = "") -> str:
    """Its files are read-only but for what the pod lends it: the two mounts."""
    command = ["python", "manage.py", *arguments]
    directory = f"          workingDir: {json.dumps(str(pods.directory))}\n" if pods.directory else ""
    return f"""\
        - name: {name}
          image: {json.dumps(pods.image)}
          command: {json.dumps(command)}
{directory}          envFrom:
            - configMapRef:
                name: {pods.config_map}
            - secretRef:
                name: {pods.secret}
          env:
            - name: QUEUE_STATE_DIR
              value: {json.dumps(_STATE)}
          resources:
            requests:
              cpu: {json.dumps(pods.cpu)}
              memory: {json.dumps(pods.memory)}
            limits:
              memory: {json.dumps(pods.memory)}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: ["ALL"]
{probes}\
          volumeMounts:
            - name: state
              mountPath: {json.dumps(_STATE)}
            - name: tmp
              mountPath: /tmp
"""


def _lines(labels: dict[str, str], indent: int) -> str:
    return "".join(f"{' ' * indent}{name}: {value}\n" for name, value in labels.items())


def _probe(name: str, question: str, *, period_seconds: int, failures: int) -> str:
    """``timeoutSeconds``: an interpreter starts, in some 50 ms, on a node that may be busy."""
    command = ["python", "-m", "zerver.monitoring.health_file", question, _HEALTH_FILE]
    return f"""\
          {name}:
            exec:
              command: {json.dumps(command)}
            periodSeconds: {period_seconds}
            timeoutSeconds: 5
            failureThreshold: {failures}
"""
