"""Mount with ``path("queue/tasks/", include("zerver.tasker.urls"))``: for a hosted cron, and for ``HttpBackend``."""

from django.urls import path

from zerver.tasker.views import knock, process

app_name = "zerver_tasks"
urlpatterns = [path("process", process, name="process"), path("knock", knock, name="knock")]
