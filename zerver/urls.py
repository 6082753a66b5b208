"""Mounts of this repository's own project."""

from django.urls import include, path

urlpatterns = [
    path("webhooks/", include("zerver.contrib.webhooks.urls")),
]
