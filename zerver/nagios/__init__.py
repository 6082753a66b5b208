"""Plugins for Nagios and its kin, which answer while everything else is down: they import no Django.

Values (``ranges``, ``report``, ``declared``) → asking (``broker``, ``database``, ``stats``) → judging (``consumers``,
``backlog``, ``worker_errors``) → a plugin's frame (``plugin``) → the plugins (``check_…``).
Source: https://www.monitoring-plugins.org/doc/guidelines.html
"""
