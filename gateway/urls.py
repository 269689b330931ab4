"""The API's paths: all that the gateway's handler serves, which knows of no page."""

from django.urls import path

from gateway.api import api

urlpatterns = [path("", api.urls)]
