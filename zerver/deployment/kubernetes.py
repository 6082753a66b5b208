"""Kubernetes' Deployments: one for each queue. Source: https://kubernetes.io/docs/reference/kubernetes-api/.

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
from zerver.deployment.programs import QueueProgram
from zerver.lib.shard_names import shard_number

DEFAULT_CPU = "100m"
DEFAULT_MEMORY = "256Mi"
#: Beside what a worker may take to drain: Kubernetes' clock runs from before it sends the signal.
GRACE_SECONDS = 10
#: Names, and the values of labels.
LONGEST_NAME = 63

_HEADER = "# Written by ./manage.py queue_config kubernetes: what is changed here is lost.\n"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|[KMGT]i|[MGT])?")
#: All that a pod writes: gone with it, and missed by nobody.
_STATE = "/run/queue"
_HEALTH_FILE = f"{_STATE}/health.json"


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


def render(pods: Pods, programs: Sequence[QueueProgram]) -> str:
    return _HEADER + "".join(_deployment(pods, program) for program in programs)


def dns_name(text: str) -> str:
    """A name as Kubernetes takes it (RFC 1123): the same for the same text, and another for any other."""
    name = text.replace("_", "-").replace(".", "-")
    if _NAME.fullmatch(name) and len(name) <= LONGEST_NAME and "." not in text:
        return name
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - len(mark) - 1].rstrip('-')}-{mark}"


def _deployment(pods: Pods, program: QueueProgram) -> str:
    """``enableServiceLinks`` off: variables of a service that is called queue-… would be taken for settings.
    ``shareProcessNamespace``: the pod's own first process reaps what handlers' programs leave behind, and a worker that
    is still loading ends by a signal, which the kernel keeps from a first process that has no handler for it.
    """
    labels = {
        "app.kubernetes.io/name": pods.name,
        "app.kubernetes.io/component": dns_name(f"queue-{program.queue}"),
        "app.kubernetes.io/managed-by": "queue_config",
    }
    selected = {name: labels[name] for name in list(labels)[:2]}
    return f"""\
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {dns_name(f"{pods.name}-{program.queue}")}
  labels:
{_lines(labels, 4)}spec:
  replicas: {program.workers}
  selector:
    matchLabels:
{_lines(selected, 6)}{_strategy(program)}  template:
    metadata:
      labels:
{_lines(labels, 8)}    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      shareProcessNamespace: true
      terminationGracePeriodSeconds: {program.stop_seconds + GRACE_SECONDS}
      securityContext:
        runAsNonRoot: true
        seccompProfile:
          type: RuntimeDefault
      containers:
{_container(pods, program)}\
      volumes:
        - name: state
          emptyDir: {{}}
        - name: tmp
          emptyDir: {{}}
"""


def _strategy(program: QueueProgram) -> str:
    """A shard's new pod waits until the old one has gone: two at once would keep no order."""
    if shard_number(program.queue) is not None:
        return """\
  strategy:
    type: Recreate
"""
    return """\
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
"""


def _container(pods: Pods, program: QueueProgram) -> str:
    """Its files are read-only but for what the pod lends it: the two mounts."""
    command = [
        "python",
        "manage.py",
        "process_queue",
        f"--queue={program.queue}",
        f"--health-file={_HEALTH_FILE}",
    ]
    directory = f"          workingDir: {json.dumps(str(pods.directory))}\n" if pods.directory else ""
    return f"""\
        - name: worker
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
{_probe("startupProbe", "live", period_seconds=3, failures=40)}\
{_probe("livenessProbe", "live", period_seconds=20, failures=3)}\
{_probe("readinessProbe", "ready", period_seconds=10, failures=1)}\
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
