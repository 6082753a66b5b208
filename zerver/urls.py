"""Mounts of this repository's own project."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import include, path


def what_is_here(request: HttpRequest) -> HttpResponse:
    return HttpResponse(
        "This is zerver. Signed webhooks are taken at /webhooks/SOURCE, by POST; there are no pages.\n",
        content_type="text/plain",
    )


urlpatterns = [
    path("webhooks/", include("zerver.contrib.webhooks.urls")),
    path("queue/tasks/", include("zerver.tasker.urls")),
    # Who develops opens this first.
    *([path("", what_is_here)] if settings.DEBUG else []),
]
