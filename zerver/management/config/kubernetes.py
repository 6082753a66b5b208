"""Kubernetes' Deployments."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from django.conf import settings

from zerver.deployment import kubernetes
from zerver.deployment.kubernetes import DEFAULT_CPU, DEFAULT_MEMORY, Pods
from zerver.management.config.kind import (
    Document,
    Kind,
    Options,
    add_no_scheduler,
    has_scheduler,
    programs_everywhere,
)
from zerver.management.config.site_options import add_name


class Kubernetes(Kind):
    name = "kubernetes"
    help = "Kubernetes' Deployments, one for each queue, and the scheduler's"
    description = (
        "Prints a Deployment for each queue, as the code declares it, without QUEUE_OVERRIDES, and one for "
        "queue_scheduler. What a project sets, "
        "and its passwords, come from a ConfigMap and a Secret whose keys become variables."
    )
    usual_path = "kubernetes.yaml beside manage.py"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_name(parser)
        add_no_scheduler(parser)
        parser.add_argument("--image", required=True, help="that has the project")
        parser.add_argument(
            "--directory",
            type=PurePosixPath,
            metavar="PATH",
            help="where manage.py is in it (where its processes start)",
        )
        parser.add_argument("--config-map", metavar="NAME", help="(NAME of --name)")
        parser.add_argument("--secret", metavar="NAME", help="(NAME of --name)")
        parser.add_argument(
            "--cpu", default=DEFAULT_CPU, metavar="QUANTITY", help="that a worker asks for (%(default)s)"
        )
        parser.add_argument(
            "--memory",
            default=DEFAULT_MEMORY,
            metavar="QUANTITY",
            help="that it asks for, and the most that it gets (%(default)s)",
        )

    def text(self, options: Options) -> str:
        pods = Pods(
            name=options["name"],
            image=options["image"],
            directory=options["directory"],
            config_map=options["config_map"] or options["name"],
            secret=options["secret"] or options["name"],
            cpu=options["cpu"],
            memory=options["memory"],
        )
        return kubernetes.render(pods, programs_everywhere(), has_scheduler=has_scheduler(options))

    def documents(self, options: Options) -> Sequence[Document]:
        path = options["file"] or Path(settings.BASE_DIR) / "kubernetes.yaml"
        return [Document(path=path, text=self.text(options))]
