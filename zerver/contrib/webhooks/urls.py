"""Mount with ``path("webhooks/", include("zerver.contrib.webhooks.urls"))``."""

from django.urls import path

from zerver.contrib.webhooks.views import receive

app_name = "zerver_webhooks"
urlpatterns = [path("<slug:source>/", receive, name="receive")]
